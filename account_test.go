package main

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/configs"
	"vtsidecar/enrich"
	"vtsidecar/enrich/quota"
	"vtsidecar/internal/faketime"
	"vtsidecar/internal/vtstandin"
)

func TestLimits(t *testing.T) {
	const auto = configs.LimitAuto
	none := quota.Account{}
	public := quota.Account{Hour: quota.Usage{Allowed: 240, Used: 1}, Day: quota.Usage{Allowed: 500, Used: 2}, Month: quota.Usage{Allowed: 15500, Used: 3}}
	for _, tc := range []struct {
		name    string
		set     [4]configs.Limit // minute, hour, day, month
		account quota.Account
		limits  quota.Limits
		shared  quota.Account
		said    string
	}{
		{"nothing known", [4]configs.Limit{auto, auto, auto, auto}, none,
			quota.Limits{Minute: 4, Day: 500, Month: 15500}, none, "4 (default), unlimited (default), 500 (default), 15500 (default)"},
		{"a public key", [4]configs.Limit{auto, auto, auto, auto}, public,
			quota.Limits{Minute: 4, Hour: 240, Day: 500, Month: 15500}, public, "4 (account), 240 (account), 500 (account), 15500 (account)"},
		{"a share of the key", [4]configs.Limit{2, 100, 300, 1000}, public,
			quota.Limits{Minute: 2, Hour: 100, Day: 300, Month: 1000}, public, "2 (setting), 100 (setting), 300 (setting), 1000 (setting)"},
		{"without limits", [4]configs.Limit{0, 0, 0, auto}, public,
			quota.Limits{Month: 15500}, quota.Account{Month: public.Month}, "unlimited (setting), unlimited (setting), unlimited (setting), 15500 (account)"},
		{"few an hour", [4]configs.Limit{auto, auto, auto, auto}, quota.Account{Hour: quota.Usage{Allowed: 20}},
			quota.Limits{Minute: 1, Hour: 20, Day: 500, Month: 15500}, quota.Account{Hour: quota.Usage{Allowed: 20}},
			"1 (account), 20 (account), 500 (default), 15500 (default)"},
		{"no hour", [4]configs.Limit{auto, auto, auto, auto}, quota.Account{Day: quota.Usage{Allowed: 100}},
			quota.Limits{Minute: 4, Day: 100, Month: 15500}, quota.Account{Day: quota.Usage{Allowed: 100}},
			"4 (default), unlimited (default), 100 (account), 15500 (default)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			vt := &configs.VT{Minute: tc.set[0], Hour: tc.set[1], Day: tc.set[2], Month: tc.set[3]}
			own, shared, all := limits(vt, tc.account)
			assert.Equal(t, tc.limits, own)
			assert.Equal(t, tc.shared, shared)
			var said []string
			for _, l := range all {
				said = append(said, l.String())
			}
			assert.Equal(t, tc.said, strings.Join(said, ", "))
		})
	}
}

func TestReadingsAvoidMidnight(t *testing.T) {
	noon := time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC)
	assert.Equal(t, 10*time.Minute, notAtMidnight(noon, 10*time.Minute))
	late := noon.Add(12*time.Hour - 9*time.Minute)
	assert.Equal(t, 11*time.Minute, notAtMidnight(late, 10*time.Minute))
	assert.Equal(t, 12*time.Minute, notAtMidnight(late, 12*time.Minute))
	assert.Equal(t, 8*time.Minute, notAtMidnight(late, 8*time.Minute))
}

// fakeAccount is what a source says of a key, and what became of it.
type fakeAccount struct {
	mu      sync.Mutex
	a       quota.Account // guarded by mu, as all that follows
	err     error         // stands before a
	reads   int
	applied []quota.Account
}

func (f *fakeAccount) say(a quota.Account, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.a, f.err = a, err
}

func (f *fakeAccount) read(context.Context) (quota.Account, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	return f.a, f.err
}

func (f *fakeAccount) apply(_ quota.Limits, a quota.Account) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applied = append(f.applied, a)
	return nil
}

func (f *fakeAccount) seen() (reads int, applied []quota.Account) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reads, slices.Clone(f.applied)
}

func TestKeeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faketime.Pass(t, 6*time.Hour) // not at midnight
		const auto = configs.LimitAuto
		log := newPrinted()
		said := func(text string) int { return strings.Count(log.String(), text) }
		pass := func(d time.Duration) {
			faketime.Pass(t, d)
			synctest.Wait()
		}
		source := &fakeAccount{err: &enrich.LookupError{Decision: enrich.Retry, Reason: "timed out"}}
		k := &keeper{
			vt:   &configs.VT{Minute: auto, Hour: auto, Day: auto, Month: auto},
			read: source.read, apply: source.apply, log: slog.New(slog.NewTextHandler(log, nil)),
		}
		stop := k.start()
		defer stop()
		pass(time.Second)
		_, applied := source.seen()
		assert.Equal(t, []quota.Account{{}}, applied, "in force at once")
		assert.Equal(t, 1, said(`vt.limit.day="500 (default)"`))
		assert.Equal(t, 1, said("timed out"))
		assert.Equal(t, 1, said("the key may have VirusTotal's public limits"), "a key with a public key's limits may be one")

		pass(time.Hour)
		reads, _ := source.seen()
		assert.Equal(t, 11, reads, "after 15 s, 30 s and so on, then every 10 minutes")
		assert.Equal(t, 1, said("are limited"), "what is the same is not said again")

		account := quota.Account{Day: quota.Usage{Allowed: 1000, Used: 5}}
		source.say(account, nil)
		pass(10 * time.Minute)
		_, applied = source.seen()
		assert.Equal(t, account, applied[len(applied)-1])
		assert.Equal(t, 1, said(`vt.limit.day="1000 (account)"`))
		assert.Equal(t, 2, said("are limited"))
		account.Day.Used = 7
		source.say(account, nil)
		pass(10 * time.Minute)
		_, applied = source.seen()
		assert.Equal(t, account, applied[len(applied)-1], "others go on")
		assert.Equal(t, 2, said("are limited"))

		source.say(quota.Account{}, errors.New("of an unknown kind"))
		known := len(applied)
		pass(30 * time.Minute)
		_, applied = source.seen()
		assert.Len(t, applied, known, "what is known holds")
		assert.Equal(t, 1, said("goes on to hold"))
		source.say(account, nil)
		pass(15 * time.Minute)
		assert.Equal(t, 1, said("can be read again"))
		assert.Equal(t, 1, said("business workflows"))
	})
}

func TestKeeperOfAKeyThatMayNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faketime.Pass(t, 6*time.Hour)
		log := newPrinted()
		source := &fakeAccount{err: &enrich.LookupError{Decision: enrich.Refused, Reason: "HTTP 403 ForbiddenError"}}
		k := &keeper{
			vt:   &configs.VT{Minute: configs.LimitAuto, Day: 100},
			read: source.read, apply: source.apply, log: slog.New(slog.NewTextHandler(log, nil)),
		}
		stop := k.start()
		defer stop()
		faketime.Pass(t, time.Hour+time.Minute)
		synctest.Wait()
		reads, _ := source.seen()
		assert.Equal(t, 7, reads)
		assert.Equal(t, 1, strings.Count(log.String(), "are limited"))
		assert.Contains(t, log.String(), "not readable: HTTP 403 ForbiddenError")
		assert.Contains(t, log.String(), `vt.limit.day="100 (setting)"`)
	})
}

// A key that is refused says nothing of what it may, so the log does not either.
func TestKeeperOfARefusedKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faketime.Pass(t, 6*time.Hour)
		log := newPrinted()
		source := &fakeAccount{err: &enrich.LookupError{Decision: enrich.Refused, Reason: "HTTP 401 WrongCredentialsError"}}
		auto := configs.LimitAuto
		k := &keeper{
			vt:   &configs.VT{Minute: auto, Hour: auto, Day: auto, Month: auto},
			read: source.read, apply: source.apply, log: slog.New(slog.NewTextHandler(log, nil)),
		}
		stop := k.start()
		defer stop()
		faketime.Pass(t, time.Hour+time.Minute)
		synctest.Wait()
		assert.Equal(t, 1, strings.Count(log.String(), "VirusTotal refuses the key"), log.String())
		assert.NotContains(t, log.String(), "business workflows")

		source.say(quota.Account{Day: quota.Usage{Allowed: 500}}, nil)
		faketime.Pass(t, time.Hour)
		synctest.Wait()
		assert.Equal(t, 1, strings.Count(log.String(), "the key has VirusTotal's public limits"))
	})
}

// The server keeps to the account, from its first request on.
func TestServerReadsTheAccount(t *testing.T) {
	s, url := limited(t, vtstandin.Config{Generate: true, Minute: 100, Day: 200})
	s.Use(199)
	p := startServer(t, t.TempDir(), url, "--vt.api_key", secretKey, "--vt.limit.minute", "auto", "--vt.limit.day", "auto", "--vt.limit.month", "auto", "--vt.wait", "5s")
	sendEvents(t, p.address(t), `{"source":{"ip":"203.0.113.7"}}`+"\n"+`{"source":{"ip":"203.0.113.8"}}`+"\n"+`{"source":{"ip":"203.0.113.9"}}`+"\n")
	p.says(t, `200 \(account\)`)
	p.stop()
	require.Zero(t, p.wait(t), p.stderr.String())
	assert.Equal(t, 1, s.Stats().Total, "one was left of 200")
	assert.Zero(t, s.Stats().OverQuota)
	assert.Equal(t, 1, s.Stats().Accounts)
	assert.NotContains(t, p.stderr.String(), secretKey)
}

// A source that does not answer for its account delays neither the start nor, for
// long, the look-ups; and who sets every limit is not asked about.
func TestServerWithoutAnAccount(t *testing.T) {
	s, url := limited(t, vtstandin.Config{Generate: true})
	require.NoError(t, s.SetFault(vtstandin.Fault{Kind: "hang", Match: vtstandin.AccountFault}))
	for _, hour := range []string{"auto", "0"} {
		data := t.TempDir()
		p := startServer(t, data, url, "--vt.api_key", secretKey, "--vt.limit.minute", "0", "--vt.limit.hour", hour, "--vt.limit.day", "0", "--vt.limit.month", "0",
			"--vt.timeout", "30s", "--vt.wait", "20s")
		sendEvents(t, p.address(t), `{"source":{"ip":"203.0.113.7"}}`+"\n")
		p.stop()
		require.Zero(t, p.wait(t), p.stderr.String())
	}
	assert.Equal(t, 2, s.Stats().Total)
	assert.Equal(t, 1, s.Stats().Accounts)
}
