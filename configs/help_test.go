package configs_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/configs"
)

func TestHelp(t *testing.T) {
	help := configs.Help()
	joined := strings.Join(strings.Fields(help), " ")
	for _, s := range configs.Settings() {
		assert.Contains(t, help, "  --"+s.Name)
		assert.Contains(t, joined, "(default: "+s.Default+")")
	}
	for line := range strings.Lines(help) {
		assert.LessOrEqual(t, utf8.RuneCountInString(strings.TrimSuffix(line, "\n")), 80, line)
	}
	assert.NotContains(t, help, "`")
	assert.NotContains(t, help, "late.window", "planned settings are not offered")

	assert.Equal(t, "  --vt.enabled\n      whether VirusTotal is asked at all (default: true)\n"+
		"  --vt.wait VALUE\n      longest that a batch waits for answers that are on their way (default: 2s)\n",
		configs.Help("vt.wait", "vt.enabled"))
}

// What the shell completes is what this version has.
func TestPlannedSettingsAreNoFlags(t *testing.T) {
	known := map[string]bool{}
	for _, s := range configs.Settings() {
		known[s.Name] = true
	}
	for _, f := range append(configs.Flags(), configs.HiddenFlags()...) {
		for _, name := range f.Names() {
			assert.True(t, known[name], name)
		}
	}
}

func TestTabsInTheFile(t *testing.T) {
	_, err := configs.Load(sources(nil, nil, "vt:\n\twait: 3s\n", nil))
	require.ErrorContains(t, err, "with spaces, not tabs")
}
