package faketime_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"vtsidecar/internal/faketime"
)

// judge notes whether it was failed.
type judge struct {
	testing.TB
	failed bool
}

func (j *judge) Helper()               {}
func (j *judge) Errorf(string, ...any) { j.failed = true }

func TestPass(t *testing.T) {
	outside := &judge{TB: t}
	faketime.Pass(outside, time.Hour) // or this test would take one
	assert.True(t, outside.failed)
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		faketime.Pass(t, time.Hour)
		assert.Equal(t, time.Hour, time.Since(began))
	})
}
