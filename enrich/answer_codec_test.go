package enrich

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func fullAnswer() *Answer {
	a := &Answer{
		Found:        true,
		LastAnalysis: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Reputation:   -12,
		Tags:         []string{"peexe", "überwacht"},
		Country:      "NL",
		ASOwner:      "X",
		ASN:          64500,
		ThreatLabel:  "trojan.eicar/test",
		Assessment:   "malicious",
		MD5:          strings.Repeat("a", 32),
		SHA1:         strings.Repeat("b", 40),
		SHA256:       strings.Repeat("c", 64),
		Link:         "https://www.virustotal.com/gui/ip-address/203.0.113.7",
		FetchedAt:    time.Date(2026, 1, 2, 3, 4, 5, 6789, time.UTC),

		FirstSubmission:  time.Date(2006, 5, 22, 1, 2, 3, 0, time.UTC),
		LastSubmission:   time.Date(2025, 12, 31, 23, 59, 59, 0, time.UTC),
		LastModification: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	for i := range 90 {
		a.Engines = append(a.Engines, EngineVerdict{Engine: fmt.Sprintf("Engine %02d", i), Category: Category(i % 5)})
	}
	return a
}

func TestAnswerCodec(t *testing.T) {
	unnamed := &Answer{Found: true, Engines: []EngineVerdict{{Category: CategoryMalicious}, {Category: CategoryUndetected}}}
	for _, a := range []*Answer{{}, {Found: true}, fullAnswer(), unnamed, {FetchedAt: time.Unix(0, 1).UTC(), LastAnalysis: time.Unix(0, 0).UTC()}, {LastSubmission: time.Unix(1, 0).UTC()}} {
		b := AppendAnswer([]byte("before"), a)
		require.True(t, bytes.HasPrefix(b, []byte("before")))
		got, err := DecodeAnswer(b[len("before"):])
		require.NoError(t, err)
		assert.Equal(t, a, got)
	}
	assert.Less(t, len(AppendAnswer(nil, fullAnswer())), 1500, "compact")
}

func TestAnswerCodecBounds(t *testing.T) {
	a := &Answer{ASOwner: strings.Repeat("é", 500), Link: strings.Repeat("a", 255) + "é"}
	for range 500 {
		a.Tags = append(a.Tags, "t")
		a.Engines = append(a.Engines, EngineVerdict{Engine: "E"})
	}
	got, err := DecodeAnswer(AppendAnswer(nil, a))
	require.NoError(t, err)
	assert.Equal(t, strings.Repeat("é", 128), got.ASOwner)
	assert.Equal(t, strings.Repeat("a", 255), got.Link, "no character is cut in two")
	assert.Len(t, got.Tags, MaxAnswerTags)
	assert.Len(t, got.Engines, MaxAnswerEngines)
}

func TestDecodeAnswerRefuses(t *testing.T) {
	good := AppendAnswer(nil, fullAnswer())
	for n := range good {
		_, err := DecodeAnswer(good[:n])
		require.Error(t, err, "cut at %d", n)
	}
	_, err := DecodeAnswer(append(bytes.Clone(good), 0))
	require.Error(t, err, "something behind it")
	for name, change := range map[string]func(b []byte){
		"version":       func(b []byte) { b[0]++ },
		"flags":         func(b []byte) { b[1] = 0xff },
		"invalid UTF-8": func(b []byte) { b[bytes.Index(b, []byte("NL"))] = 0xff },
		"category":      func(b []byte) { b[bytes.Index(b, []byte("Engine 00"))-2] = 5 },
		"order":         func(b []byte) { b[bytes.Index(b, []byte("Engine 00"))] = 'Z' },
	} {
		b := bytes.Clone(good)
		change(b)
		_, err := DecodeAnswer(b)
		require.ErrorIs(t, err, errAnswer, name)
	}
}

func TestEngineNamesAreShared(t *testing.T) {
	b := AppendAnswer(nil, fullAnswer())
	one, err := DecodeAnswer(b)
	require.NoError(t, err)
	two, err := DecodeAnswer(b)
	require.NoError(t, err)
	assert.Equal(t, unsafe.StringData(one.Engines[7].Engine), unsafe.StringData(two.Engines[7].Engine))
	for i := range 2 * maxInterned {
		InternEngine(fmt.Appendf(nil, "made up %d", i))
	}
	assert.LessOrEqual(t, len(engineNames.m), maxInterned)
}

func FuzzDecodeAnswer(f *testing.F) {
	f.Add(AppendAnswer(nil, fullAnswer()))
	f.Add(AppendAnswer(nil, &Answer{}))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := DecodeAnswer(b)
		if err != nil {
			if a != nil {
				t.Fatal("an answer beside an error")
			}
			return
		}
		if len(a.Engines) > MaxAnswerEngines || len(a.Tags) > MaxAnswerTags || len(a.Link) > MaxAnswerString {
			t.Fatal("out of bounds")
		}
		again, err := DecodeAnswer(AppendAnswer(nil, a))
		if err != nil || !assert.ObjectsAreEqual(a, again) {
			t.Fatalf("not the same again: %v", err)
		}
	})
}

func BenchmarkDecodeAnswer(b *testing.B) {
	enc := AppendAnswer(nil, fullAnswer())
	b.ReportAllocs()
	for b.Loop() {
		_, _ = DecodeAnswer(enc)
	}
}
