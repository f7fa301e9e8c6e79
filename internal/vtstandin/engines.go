package vtstandin

// engineNames are those that answer for a type, of which there are a number
// that 13 does not divide.
func engineNames(typ string) []string {
	if typ == Hash {
		return fileEngines[:]
	}
	return netEngines[:]
}

var netEngines = [...]string{
	"0xSI_f33d", "Abusix", "Acronis", "ADMINUSLabs", "AILabs (MONITORAPP)", "AlienVault", "AlphaSOC", "alphaMountain.ai", "Antiy-AVL", "ArcSight Threat Intelligence",
	"AutoShun", "Axur", "benkow.cc", "Bfore.Ai PreCrime", "BitDefender", "Bkav", "Blueliv", "Certego", "ChainPatrol", "Chong Lua Dao",
	"CINS Army", "Cluster25", "CRDF", "Criminal IP", "CSIS Security Group", "CMC Threat Intelligence", "Cyan", "Cyble", "CyRadar", "desenmascara.me",
	"DNS8", "Dr.Web", "EmergingThreats", "Emsisoft", "Ermes", "ESET", "ESTsecurity", "Feodo Tracker", "Forcepoint ThreatSeeker", "Fortinet",
	"G-Data", "Google Safebrowsing", "GreenSnow", "Gridinsoft", "Guardpot", "Heimdal Security", "Hunt.io Intelligence", "IPsum", "Juniper Networks", "Kaspersky",
	"Lionic", "Lumu", "MalwarePatrol", "Malwared", "Malwares.com URL checker", "Mimecast", "Netcraft", "Nucleon", "OpenPhish", "PhishFort",
	"PhishLabs", "Phishing Database", "Phishtank", "PREBYTES", "PrecisionSec", "Quick Heal", "Quttera", "SafeToOpen", "Sangfor", "Sansec eComscan",
	"Scantitan", "SCUMWARE.org", "Seclookup", "SecureBrain", "SOCRadar", "Sophos", "Spam404", "StopForumSpam", "Sucuri SiteCheck", "ThreatHive",
	"Threatsourcing", "Trustwave", "Underworld", "URLhaus", "URLQuery", "Viettel Threat Intelligence", "VIPRE", "ViriBack", "VX Vault", "Webroot",
	"Xcitium Verdict Cloud", "Yandex Safebrowsing", "ZeroCERT", "ZeroFox",
}

var fileEngines = [...]string{
	"Acronis", "AhnLab-V3", "Alibaba", "ALYac", "Antiy-AVL", "APEX", "Arcabit", "Avast", "Avast-Mobile", "AVG",
	"Avira", "Baidu", "BitDefender", "BitDefenderFalx", "BitDefenderTheta", "Bkav", "CAT-QuickHeal", "ClamAV", "CMC", "CrowdStrike",
	"CTX", "Cybereason", "Cylance", "Cynet", "DeepInstinct", "DrWeb", "Elastic", "Emsisoft", "eScan", "ESET-NOD32",
	"F-Secure", "Fortinet", "GData", "Google", "Gridinsoft", "huorong", "Ikarus", "Jiangmin", "K7AntiVirus", "K7GW",
	"Kaspersky", "Kingsoft", "Lionic", "Malwarebytes", "MaxSecure", "McAfeeD", "Microsoft", "NANO-Antivirus", "Paloalto", "Panda",
	"Rising", "Sangfor", "SentinelOne", "Skyhigh", "Sophos", "SUPERAntiSpyware", "Symantec", "SymantecMobileInsight", "TACHYON", "TEHTRIS",
	"Tencent", "Trapmine", "Trellix", "TrendMicro", "TrendMicro-HouseCall", "Trustlook", "Varist", "VBA32", "VIPRE", "VirIT",
	"ViRobot", "Webroot", "WithSecure", "Xcitium", "Zillya", "ZoneAlarm", "Zoner",
}
