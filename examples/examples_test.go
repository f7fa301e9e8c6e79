// Package examples_test holds the examples to what they claim: settings load,
// events have the shape that Beats send.
package examples_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"vtsidecar/configs"
)

// beat is what the test reads of a Beat's settings.
type beat struct {
	Logstash struct {
		Hosts       []string      `yaml:"hosts"`
		Timeout     time.Duration `yaml:"timeout"`
		BulkMaxSize int           `yaml:"bulk_max_size"`
	} `yaml:"output.logstash"`
	Inputs []struct {
		Type  string   `yaml:"type"`
		ID    string   `yaml:"id"`
		Paths []string `yaml:"paths"`
	} `yaml:"filebeat.inputs"`
	EventLogs []struct {
		Name string `yaml:"name"`
	} `yaml:"winlogbeat.event_logs"`
}

// The senders' settings fit our defaults.
func TestBeatSettings(t *testing.T) {
	ours, err := configs.Load(configs.Input{})
	require.NoError(t, err)
	for _, name := range []string{"filebeat.yml", "winlogbeat.yml"} {
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(name)
			require.NoError(t, err)
			var b beat
			require.NoError(t, yaml.Unmarshal(data, &b))
			assert.Equal(t, []string{ours.Input.Address}, b.Logstash.Hosts)
			assert.LessOrEqual(t, b.Logstash.BulkMaxSize, ours.Input.MaxWindow)
			assert.Less(t, ours.Input.Keepalive, b.Logstash.Timeout/2, "keepalives come in time")
			assert.Positive(t, len(b.Inputs)+len(b.EventLogs))
			ids := map[string]bool{}
			for _, in := range b.Inputs {
				assert.NotEmpty(t, in.Paths)
				assert.False(t, ids[in.ID] || in.ID == "", "a filestream needs an id of its own")
				ids[in.ID] = true
			}

			// The TLS variant in the comments is YAML too.
			var tlsToo yaml.Node
			uncommented := strings.ReplaceAll(string(data), "\n  hosts:", "\n  #-hosts:")
			uncommented = strings.NewReplacer("\n  #hosts", "\n  hosts", "\n  #ssl", "\n  ssl", "\n#filebeat", "\nfilebeat", "\n#  - module", "\n  - module", "\n#    eve", "\n    eve").Replace(uncommented)
			require.NoError(t, yaml.Unmarshal([]byte(uncommented), &tlsToo))
			assert.Contains(t, uncommented, "\n  ssl.key:")
		})
	}
}

// Our own settings load, with the files that they name.
func TestOwnSettings(t *testing.T) {
	cert, key := certificate(t)
	named := map[string]string{
		"/etc/vtsidecar/api_key": "0123456789abcdef\n", "/etc/vtsidecar/server.crt": cert, "/etc/vtsidecar/server.key": key, "/etc/vtsidecar/ca.crt": cert,
	}
	read := func(path string) ([]byte, error) {
		if text, ok := named[path]; ok {
			return []byte(text), nil
		}
		if filepath.IsAbs(path) {
			return nil, fs.ErrNotExist
		}
		return os.ReadFile(path)
	}
	for _, name := range []string{"vtsidecar.yml", "vtsidecar-tls.yml"} {
		c, err := configs.Load(configs.Input{Flags: []configs.Value{{Name: "config", Text: name}}, ReadFile: read})
		require.NoError(t, err, name)
		assert.Equal(t, "0123456789abcdef", c.VT.APIKey)
		assert.Empty(t, c.Warnings)
		if name == "vtsidecar-tls.yml" {
			require.NotNil(t, c.Input.TLS)
			assert.Equal(t, tls.RequireAndVerifyClientCert, c.Input.TLS.ClientAuth)
			continue
		}
		standard, err := configs.Load(configs.Input{})
		require.NoError(t, err)
		assert.Subset(t, c.Fields, standard.Fields, "the defaults are all there")
		assert.Contains(t, c.Fields, "message:scan@low=message")
	}
}

// event is what the test reads of an event.
type event struct {
	Timestamp string `json:"@timestamp"`
	Metadata  struct {
		Beat    string `json:"beat"`
		Type    string `json:"type"`
		Version string `json:"version"`
	} `json:"@metadata"`
	Agent struct {
		Type        string `json:"type"`
		EphemeralID string `json:"ephemeral_id"`
	} `json:"agent"`
	ECS struct {
		Version string `json:"version"`
	} `json:"ecs"`
	Log struct {
		File struct {
			Path string `json:"path"`
		} `json:"file"`
		Offset json.Number `json:"offset"`
	} `json:"log"`
	Winlog struct {
		EventID   string         `json:"event_id"` // a string, whatever Windows says
		RecordID  json.Number    `json:"record_id"`
		Channel   string         `json:"channel"`
		Computer  string         `json:"computer_name"`
		EventData map[string]any `json:"event_data"`
	} `json:"winlog"`
}

// lines are the events of a file, each one JSON object on one line.
func lines(t *testing.T, path string) [][]byte {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.HasSuffix(data, []byte("\n")))
	all := bytes.Split(bytes.TrimSuffix(data, []byte("\n")), []byte("\n"))
	for i, line := range all {
		require.True(t, json.Valid(line) && line[0] == '{', "%s line %d is no JSON object", path, i+1)
	}
	return all
}

func TestEventsHaveTheShapeOfBeats(t *testing.T) {
	paths, err := filepath.Glob("events/*.ndjson")
	require.NoError(t, err)
	require.Len(t, paths, 3)
	positions := map[string]bool{}
	for _, path := range paths {
		for i, line := range lines(t, path) {
			var e event
			require.NoError(t, json.Unmarshal(line, &e), "%s line %d", path, i+1)
			_, err := time.Parse("2006-01-02T15:04:05.000Z", e.Timestamp)
			assert.NoError(t, err, "milliseconds, UTC, as Beats write them")
			assert.Equal(t, e.Agent.Type, e.Metadata.Beat)
			assert.Equal(t, "_doc", e.Metadata.Type)
			assert.NotEmpty(t, e.Metadata.Version)
			assert.NotEmpty(t, e.Agent.EphemeralID)
			assert.NotEmpty(t, e.ECS.Version)
			position := e.Log.File.Path + " " + e.Log.Offset.String()
			if e.Metadata.Beat == "winlogbeat" {
				position = e.Winlog.Computer + " " + e.Winlog.Channel + " " + e.Winlog.RecordID.String()
				assert.NotEmpty(t, e.Winlog.RecordID)
				assert.NotEmpty(t, e.Winlog.EventID)
				for k, v := range e.Winlog.EventData {
					assert.IsType(t, "", v, "event_data.%s: Windows' data are strings", k)
				}
			} else {
				assert.NotEmpty(t, e.Log.Offset)
			}
			assert.False(t, positions[position], "%s line %d: two events at one place", path, i+1)
			positions[position] = true
		}
	}
	assert.Len(t, positions, 24)
}

// The walk-through says what is in which line.
func TestWalkThroughNamesTheLines(t *testing.T) {
	const eicar = "275a021bbfb6489e54d471899f7db9d1663fc695ec2fe2a2c4538aabf651fd0f"
	for path, parts := range map[string][]string{
		"events/winlogbeat.ndjson": {"SHA256=" + strings.ToUpper(eicar), "notepad.exe", `"DestinationIp":"203.0.113.7"`, `"DestinationIp":"10.20.0.5"`, `"DestinationIp":"fe80:`,
			`"QueryName":"evil-updates.net"`, `"QueryName":"www.example.org"`, `"IpAddress":"198.51.100.23"`, `"IpAddress":"-"`},
		"events/filebeat-json.ndjson": {"http://evil-updates.net/payload.exe?id=", "https://www.example.org/", "198.51.100.23", "9007199254740993", `"source.ip":"203.0.113.7"`,
			`"sha256":"` + eicar, "attachments", `["203.0.113.7","1.1.1.1"]`, "hxxp://evil-updates[.]net/payload.exe", `"arcanna":{`, "worker started"},
		"events/filebeat-modules.ndjson": {`"name":"evil-updates.net"`, `"server_name":"www.example.org"`, `"query":"evil-updates.net"`, `"message":"198.51.100.23 - - [`},
	} {
		all := lines(t, path)
		require.Len(t, all, len(parts), path)
		for i, part := range parts {
			assert.Contains(t, string(all[i]), part, "%s line %d", path, i+1)
		}
	}
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	entries, err := os.ReadDir(".")
	require.NoError(t, err)
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".yml") {
			assert.Contains(t, string(readme), "`"+e.Name()+"`")
		}
	}
}

func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}
