package indicator_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/enrich/indicator"
)

func TestParseField(t *testing.T) {
	const (
		low, normal, high = indicator.PriorityLow, indicator.PriorityNormal, indicator.PriorityHigh
	)
	for in, want := range map[string]indicator.FieldSpec{
		"source.ip":                    {Path: "source.ip", Kind: indicator.KindAuto, Priority: normal, Name: "source.ip"},
		" source.ip:ip ":               {Path: "source.ip", Kind: indicator.KindIP, Priority: normal, Name: "source.ip"},
		"source.ip:ip@low":             {Path: "source.ip", Kind: indicator.KindIP, Priority: low, Name: "source.ip"},
		"a@high":                       {Path: "a", Kind: indicator.KindAuto, Priority: high, Name: "a"},
		"a@normal=b":                   {Path: "a", Kind: indicator.KindAuto, Priority: normal, Name: "b"},
		"a=b.c":                        {Path: "a", Kind: indicator.KindAuto, Priority: normal, Name: "b.c"},
		"w.Hashes:hash@high=sysmon.h":  {Path: "w.Hashes", Kind: indicator.KindHash, Priority: high, Name: "sysmon.h"},
		"message:scan":                 {Path: "message", Kind: indicator.KindScan, Priority: low, Name: "message"},
		"message:scan@normal":          {Path: "message", Kind: indicator.KindScan, Priority: normal, Name: "message"},
		"message:scan=text":            {Path: "message", Kind: indicator.KindScan, Priority: low, Name: "text"},
		"a:auto":                       {Path: "a", Kind: indicator.KindAuto, Priority: normal, Name: "a"},
		"u:url":                        {Path: "u", Kind: indicator.KindURL, Priority: normal, Name: "u"},
		"d:domain":                     {Path: "d", Kind: indicator.KindDomain, Priority: normal, Name: "d"},
		"@metadatum.ip:ip":             {Path: "@metadatum.ip", Kind: indicator.KindIP, Priority: normal, Name: "@metadatum.ip"},
		"arcanna.iocs:ip":              {Path: "arcanna.iocs", Kind: indicator.KindIP, Priority: normal, Name: "arcanna.iocs"},
		"a.@metadata.ip:ip":            {Path: "a.@metadata.ip", Kind: indicator.KindIP, Priority: normal, Name: "a.@metadata.ip"},
		"@high":                        {Path: "@high", Kind: indicator.KindAuto, Priority: normal, Name: "@high"},
		"a.@b@low":                     {Path: "a.@b", Kind: indicator.KindAuto, Priority: low, Name: "a.@b"},
		"globally.ip":                  {Path: "globally.ip", Kind: indicator.KindAuto, Priority: normal, Name: "globally.ip"},
		"x.global":                     {Path: "x.global", Kind: indicator.KindAuto, Priority: normal, Name: "x.global"},
		"global.ip=x":                  {Path: "global.ip", Kind: indicator.KindAuto, Priority: normal, Name: "x"},
		"key with space.é:domain=näme": {Path: "key with space.é", Kind: indicator.KindDomain, Priority: normal, Name: "näme"},
	} {
		got, err := indicator.ParseField(in)
		require.NoError(t, err, in)
		assert.Equal(t, want, got, in)
	}
	for in, mend := range map[string]string{
		"":                 "path is empty",
		":ip":              "path is empty",
		"a=":               "name is empty",
		"=b":               "path is empty",
		"a:what":           "use ip, domain, url, hash, auto or scan",
		"a:":               "use ip, domain, url, hash, auto or scan",
		"a:IP":             "use ip, domain, url, hash, auto or scan",
		"a@urgent":         "use @low, @normal or @high",
		"a@high:ip":        "use a:ip@high",
		"a..b":             "empty part",
		".a":               "empty part",
		"a.":               "empty part",
		"a=b..c":           "empty part",
		"a.*":              "write each out",
		"a=*":              "write each out",
		"a=global":         "=NAME",
		"a=global.x":       "=NAME",
		"event_id":         "=NAME",
		"schema.x":         "=NAME",
		"is_malicious":     "=NAME",
		"indicators.0":     "=NAME",
		"a= b":             "space",
		"a\x00b":           "character",
		"source.ip :ip":    "space",
		"a:ip@low@low=b":   "unknown kind",
		"threat.x:hash:ip": "two kinds",
		"@metadata.ip:ip":  "put the value elsewhere",
		"@metadata":        "put the value elsewhere",
		"arcanna.ioc.x=y":  "put the value elsewhere",
	} {
		_, err := indicator.ParseField(in)
		if assert.Error(t, err, in) {
			assert.Contains(t, err.Error(), mend, in)
		}
	}
}

func specsOf(t *testing.T, texts ...string) []indicator.FieldSpec {
	var out []indicator.FieldSpec
	for _, text := range texts {
		f, err := indicator.ParseField(text)
		require.NoError(t, err)
		out = append(out, f)
	}
	return out
}

func TestCheckFields(t *testing.T) {
	assert.Empty(t, indicator.CheckFields(nil))
	assert.Empty(t, indicator.CheckFields(specsOf(t, "a=x.y", "b=x.y", "c=x.yz", "d=x.z", "x.y")))

	errs := indicator.CheckFields(specsOf(t, "a=x.y", "b=x", "c=x.y.z", "d=x.y"))
	require.Len(t, errs, 3, "each pair of names once")
	assert.ErrorContains(t, errs[0], `the name "x.y" lies within the name "x"`)
	assert.ErrorContains(t, errs[1], `the name "x.y.z" lies within the name "x"`)
	assert.ErrorContains(t, errs[2], `the name "x.y.z" lies within the name "x.y"`)

	errs = indicator.CheckFields([]indicator.FieldSpec{{Path: "a", Name: "global.a"}, {Path: "", Name: "b"}, {Path: "c", Name: "c"}})
	assert.Len(t, errs, 2)
}
