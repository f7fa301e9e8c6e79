package configs_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/configs"
)

func TestHosts(t *testing.T) {
	for in, want := range map[string]string{
		"localhost": "http://localhost:9200", "es:9201": "http://es:9201", "https://es": "https://es:9200", "https://es:443/prefix/": "https://es:443/prefix",
		"::1": "http://[::1]:9200", "http://[::1]:1": "http://[::1]:1",
	} {
		c := load(t, sources([]string{"output.elasticsearch.hosts=" + in}, nil, "", nil))
		assert.Equal(t, configs.OutputToElasticsearch, c.Output)
		require.Len(t, c.Elasticsearch.Hosts, 1, in)
		assert.Equal(t, want, c.Elasticsearch.Hosts[0].String())
	}
	c := load(t, sources([]string{"output.elasticsearch.hosts=https://bücher.example"}, nil, "", nil))
	for host, want := range map[string]string{ // as certificates have them
		"bücher.example": "xn--bcher-kva.example", "es_1": "es_1", "10.0.0.1": "10.0.0.1", "::1": "::1", "fe80::1%eth0": "fe80::1%eth0",
	} {
		assert.Equal(t, want, c.Elasticsearch.SSL.For(host).ServerName)
	}
	c = load(t, sources([]string{"output.elasticsearch.hosts=https://user:S3CR3T@es,https://es:9200"}, nil, "", nil))
	assert.Len(t, c.Elasticsearch.Hosts, 2)
	assert.NotContains(t, c.YAML(), "S3CR3T")
	assert.Contains(t, c.YAML(), "https://xxxxx@es:9200")

	// name:base64("eu.example.com:9243$0123$4567")
	c = load(t, sources([]string{"output.elasticsearch.cloud_id=prod:ZXUuZXhhbXBsZS5jb206OTI0MyQwMTIzJDQ1Njc="}, nil, "", nil))
	assert.Equal(t, "https://0123.eu.example.com:9243", c.Elasticsearch.Hosts[0].String())

	c = load(t, sources([]string{"output.logstash.hosts=logstash,[::1]:1,10.0.0.1:5045,bücher.example"}, nil, "", nil))
	assert.Equal(t, configs.OutputToLogstash, c.Output)
	assert.Equal(t, []string{"logstash:5044", "[::1]:1", "10.0.0.1:5045", "xn--bcher-kva.example:5044"}, c.Logstash.Hosts)
	assert.Nil(t, c.Logstash.SSL.For("logstash"))
	c = load(t, sources([]string{"output.logstash.hosts=logstash", "output.logstash.ssl.enabled=true"}, nil, "", nil))
	require.NotNil(t, c.Logstash.SSL.For("logstash"))
	assert.Equal(t, "logstash", c.Logstash.SSL.For("logstash").ServerName)

	assert.Equal(t, configs.OutputToFile, load(t, configs.Input{}).Output)
}

func TestContradictionsOfOutputs(t *testing.T) {
	const hosts = "output.elasticsearch.hosts=https://es"
	for flags, part := range map[string]string{
		hosts + " output.file.path=/x":                  "output: has more than one destination: output.file.path (flag), output.elasticsearch.hosts (flag)",
		hosts + " output.logstash.hosts=b":              "more than one destination",
		hosts + " output.elasticsearch.cloud_id=a:YSRi": "is given beside output.elasticsearch.hosts",
		"output.elasticsearch.hosts=":                   "output.elasticsearch.hosts (flag): is empty",
		"output.logstash.hosts=":                        "output.logstash.hosts (flag): is empty",
		"output.elasticsearch.index=x":                  "events do not go there: set output.elasticsearch.hosts",
		"output.logstash.ssl.enabled=true":              "events do not go there: set output.logstash.hosts",
		hosts + " output.file.keep=3":                   "output.file.keep (flag): is given, but events do not go there: they go to output.elasticsearch",
		hosts + " output.elasticsearch.username=u":      "is given without output.elasticsearch.password",
		hosts + " output.elasticsearch.password=S3CR3T": "is given without output.elasticsearch.username",
		hosts + " output.elasticsearch.api_key=a:S3CR3T output.elasticsearch.bearer_token=S3CR3T": "one kind of credentials",
		hosts + " output.elasticsearch.ssl.key=/k":                                                "is given without output.elasticsearch.ssl.certificate",
		hosts + " output.elasticsearch.ssl.certificate_authorities=/no":                           "does not exist",
		hosts + " output.elasticsearch.ssl.ca_trusted_fingerprint=12":                             "is no SHA-256",
		hosts + " output.elasticsearch.password_file=/no output.elasticsearch.username=u":         "does not exist",
		"output.elasticsearch.hosts=http://es output.elasticsearch.ssl.verification_mode=none":    "no host has https",
		"output.elasticsearch.cloud_id=nonsense":                                                  "is no cloud ID",
		"output.logstash.hosts=https://x":                                                         "is a URL",
		"output.logstash.hosts=b\u00fc_cher":                                                      "is no name of a host",
		"output.logstash.hosts=x:0":                                                               "names no host or no port",
	} {
		lines := mistakes(t, sources(strings.Fields(flags), nil, "", nil))
		text := strings.Join(lines, "\n")
		assert.Contains(t, text, part, flags)
		assert.NotContains(t, text, "S3CR3T")
		assert.Len(t, lines, 1, text)
	}

	// Those who know names are asked.
	in := sources([]string{hosts, "output.elasticsearch.fallback_index=Bad"}, nil, "", nil)
	in.CheckOutput = func(es *configs.Elasticsearch) []configs.Mistake {
		return []configs.Mistake{{Name: "output.elasticsearch.fallback_index", Text: es.FallbackIndex + " can be no index"}}
	}
	assert.Equal(t, []string{"output.elasticsearch.fallback_index (flag): Bad can be no index"}, mistakes(t, in))

	// What is set as it is anyway, as in the annotated file, is set for nobody.
	load(t, sources([]string{"output.elasticsearch.workers=2", "output.file.path=/x/y"}, nil, "", nil))
	c := load(t, sources([]string{hosts, "output.file.keep=0", "output.elasticsearch.op_type=index", "output.elasticsearch.ssl.verification_mode=none"}, nil, "", nil))
	assert.Len(t, c.Warnings, 2)
}

// What test config prints can be loaded again, whatever the output.
func TestPrintedOutputsAreOne(t *testing.T) {
	for _, flag := range []string{"output.elasticsearch.hosts=es", "output.elasticsearch.cloud_id=prod:ZXUuZXhhbXBsZS5jb206OTI0MyQwMTIzJDQ1Njc=", "output.logstash.hosts=ls", "output.file.path=/x/y"} {
		c := load(t, sources([]string{flag}, nil, "", nil))
		again := load(t, sources(nil, nil, c.YAML(), nil))
		assert.Equal(t, c.Output, again.Output)
		assert.Equal(t, c.OutputFile, again.OutputFile)
	}
}

func TestSecretsOfOutputs(t *testing.T) {
	c := load(t, sources([]string{"output.elasticsearch.hosts=es", "output.elasticsearch.username=u", "output.elasticsearch.password_file=/secret"}, nil, "", files{"/secret": "S3CR3T\n"}))
	assert.Equal(t, "S3CR3T", c.Elasticsearch.Password)
	assert.NotContains(t, c.YAML(), "S3CR3T")
	for _, key := range []string{"id:key", "aWQ6a2V5"} {
		c = load(t, sources([]string{"output.elasticsearch.hosts=es", "output.elasticsearch.api_key=" + key}, nil, "", nil))
		assert.Equal(t, "aWQ6a2V5", c.Elasticsearch.APIKey)
		assert.NotContains(t, c.YAML(), key)
	}
}

// An authority that comes with the connection is trusted by its fingerprint,
// for the host's own name and no other, by name and by address.
func TestFingerprint(t *testing.T) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	require.NoError(t, err)
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"es.test"}, IPAddresses: []net.IP{net.ParseIP("127.0.0.1")}}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, leafKey.Public(), caKey)
	require.NoError(t, err)
	signed := tls.Certificate{Certificate: [][]byte{leafDER, caDER}, PrivateKey: leafKey}
	// As openssl req -x509 makes it: an authority that is its own server.
	self := &x509.Certificate{SerialNumber: big.NewInt(3), NotAfter: leaf.NotAfter, IsCA: true, BasicConstraintsValid: true, DNSNames: leaf.DNSNames}
	selfDER, err := x509.CreateCertificate(rand.Reader, self, self, leafKey.Public(), leafKey)
	require.NoError(t, err)
	itself := tls.Certificate{Certificate: [][]byte{selfDER}, PrivateKey: leafKey}
	hashed := func(der []byte) string { sum := sha256.Sum256(der); return hex.EncodeToString(sum[:]) }
	right, wrong := hashed(caDER), strings.Repeat("00", 32)
	spelled := strings.ToUpper(right[:2] + ":" + right[2:]) // as openssl prints it
	for _, tt := range []struct {
		served            tls.Certificate
		host, fingerprint string
		good              bool
	}{
		{signed, "es.test", right, true}, {signed, "127.0.0.1", right, true}, {signed, "es.test", spelled, true}, {signed, "127.0.0.2", right, false},
		{signed, "other.test", right, false}, {signed, "es.test", wrong, false}, {signed, "127.0.0.1", wrong, false}, {signed, "es.test", hashed(leafDER), false},
		{itself, "es.test", hashed(selfDER), true}, {itself, "other.test", hashed(selfDER), false}, {itself, "es.test", right, false},
	} {
		c := load(t, sources([]string{"output.elasticsearch.hosts=https://es", "output.elasticsearch.ssl.ca_trusted_fingerprint=" + tt.fingerprint}, nil, "", nil))
		a, b := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			s := tls.Server(a, &tls.Config{Certificates: []tls.Certificate{tt.served}})
			if s.Handshake() == nil {
				s.Read(make([]byte, 1)) // until the client closes
			}
			a.Close()
		}()
		client := tls.Client(b, c.Elasticsearch.SSL.For(tt.host))
		err := client.Handshake()
		assert.Equal(t, tt.good, err == nil, "%s by %s: %v", tt.host, tt.fingerprint, err)
		b.Close()
		<-done
	}
}
