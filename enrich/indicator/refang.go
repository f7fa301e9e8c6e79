package indicator

// Analysts write indicators so that nobody clicks on them: hxxp://example[.]com,
// 203[.]0[.]113[.]7, example(dot)com, hxxps[://]example.com. What is between
// brackets here stands for itself.
var fangs = []struct{ defanged, text string }{
	{"[.]", "."}, {"(.)", "."}, {"{.}", "."},
	{"[dot]", "."}, {"(dot)", "."}, {"{dot}", "."},
	{"[:]", ":"}, {"(:)", ":"}, {"{:}", ":"},
	{"[://]", "://"}, {"(://)", "://"}, {"[:]//", "://"},
	{"[//]", "//"}, {"[/]", "/"},
	{"[@]", "@"}, {"(@)", "@"}, {"[at]", "@"}, {"(at)", "@"},
}

// isDefanged: something in b is between brackets that stands for itself.
func isDefanged(b []byte) bool {
	for i, c := range b {
		if c == '[' || c == '(' || c == '{' {
			if n, _ := fangAt(b[i:]); n > 0 {
				return true
			}
		}
	}
	return false
}

// fangAt is the length of what is defanged at the beginning of b, 0: nothing,
// and what it stands for.
func fangAt(b []byte) (n int, text string) {
	if len(b) < 3 {
		return 0, ""
	}
	switch b[1] { // most brackets are just that
	case '.', ':', '/', '@', 'd', 'D', 'a', 'A':
	default:
		return 0, ""
	}
	for _, f := range fangs {
		if len(b) >= len(f.defanged) && equalFold(b[:len(f.defanged)], f.defanged) {
			return len(f.defanged), f.text
		}
	}
	return 0, ""
}

// appendRefanged appends b with everything standing for itself again.
func appendRefanged(dst, b []byte) []byte {
	for i := 0; i < len(b); {
		if c := b[i]; c == '[' || c == '(' || c == '{' {
			if n, text := fangAt(b[i:]); n > 0 {
				dst = append(dst, text...)
				i += n
				continue
			}
		}
		dst = append(dst, b[i])
		i++
	}
	return dst
}

// schemes are the spellings of those that are looked up.
var schemes = []struct{ spelled, means string }{
	{"http", "http"}, {"https", "https"}, {"ftp", "ftp"},
	{"hxxp", "http"}, {"hxxps", "https"}, {"h**p", "http"}, {"h**ps", "https"},
	{"hxtp", "http"}, {"hxtps", "https"}, {"htxp", "http"}, {"htxps", "https"}, {"http[s]", "https"},
	{"fxp", "ftp"}, {"fxxp", "ftp"}, {"f*p", "ftp"},
}

const maxScheme = 7 // longest spelling

// schemeOf is what b's beginning is as a scheme, if it is one of ours.
func schemeOf(b []byte) (means string, length int) {
	colon := -1
	for i, c := range b[:min(len(b), maxScheme+1)] {
		if c == ':' {
			colon = i
			break
		}
	}
	if colon < 0 {
		return "", 0
	}
	for _, s := range schemes {
		if equalFold(b[:colon], s.spelled) {
			return s.means, colon
		}
	}
	return "", colon
}
