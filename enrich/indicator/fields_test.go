package indicator_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/enrich/indicator"
)

func TestParseField(t *testing.T) {
	for text, want := range map[string]indicator.FieldSpec{
		"source.ip":                      {Path: "source.ip", Name: "source.ip"},
		" source.ip:ip ":                 {Path: "source.ip", Kind: indicator.KindIP, Name: "source.ip"},
		"a.b:hash@high=c.d":              {Path: "a.b", Kind: indicator.KindHash, Priority: indicator.PriorityHigh, Name: "c.d"},
		"a@low":                          {Path: "a", Priority: indicator.PriorityLow, Name: "a"},
		"message:scan@normal=text":       {Path: "message", Kind: indicator.KindScan, Name: "text"},
		"winlog.event_data.Hashes=h":     {Path: "winlog.event_data.Hashes", Name: "h"},
		"user agent.x:auto":              {Path: "user agent.x", Name: "user agent.x"},
		"a:domain":                       {Path: "a", Kind: indicator.KindDomain, Name: "a"},
		"globals.x:url=event_ids.global": {Path: "globals.x", Kind: indicator.KindURL, Name: "event_ids.global"},
	} {
		got, err := indicator.ParseField(text)
		if assert.NoError(t, err, text) {
			assert.Equal(t, want, got, text)
		}
	}
	for text, mend := range map[string]string{
		"":              "empty",
		"=x":            "empty",
		"a=":            "empty",
		":ip":           "empty",
		"a:ipv4":        "use ip, domain",
		"a:":            "use ip, domain",
		"a@urgent":      "use low, normal or high",
		"a..b":          "empty part",
		".a":            "empty part",
		"a.":            "empty part",
		"a.*:ip":        "no wildcards",
		"a=b.*":         "no wildcards",
		"@metadata.ip":  "under @metadata",
		"a\nb":          "no field name",
		"a:ip:ip":       "use ip, domain",
		"a:ip@low@high": "use low, normal or high",
	} {
		_, err := indicator.ParseField(text)
		assert.ErrorContains(t, err, mend, text)
	}
}

func TestCheckFields(t *testing.T) {
	parse := func(texts ...string) (specs []indicator.FieldSpec) {
		for _, text := range texts {
			f, err := indicator.ParseField(text)
			require.NoError(t, err)
			specs = append(specs, f)
		}
		return specs
	}
	assert.Empty(t, indicator.CheckFields(parse("a=x.y", "b=x.y", "c=x.z", "d=xy")), "names may be shared and be neighbours")

	errs := indicator.CheckFields(parse("a=x", "b=x.y", "c=x.y.z", "global.ip", "d=indicators"))
	require.Len(t, errs, 5)
	assert.ErrorContains(t, errs[0], `"x.y" lies below another field's name "x"`)
	assert.ErrorContains(t, errs[1], `"x.y.z" lies below another field's name "x"`)
	assert.ErrorContains(t, errs[2], `"x.y.z" lies below another field's name "x.y"`)
	assert.ErrorContains(t, errs[3], `begins with "global"`)
	assert.ErrorContains(t, errs[4], `begins with "indicators"`)
}
