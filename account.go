package main

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"vtsidecar/configs"
	"vtsidecar/enrich"
	"vtsidecar/enrich/quota"
	"vtsidecar/enrich/virustotal"
)

const (
	// accountEvery is how old what is known of other programs' requests may be.
	// Reading it costs no quota.
	accountEvery = 10 * time.Minute
	// accountFirst is the pause after a reading that failed for a passing reason;
	// it doubles up to accountEvery.
	accountFirst = 15 * time.Second
	// accountWait is how long look-ups wait for the first reading. Nothing else does.
	accountWait = time.Second
	// afterMidnight is when the account's figures of a new day can be relied on.
	afterMidnight = 2 * time.Minute
)

// limit is one limit in force and where it comes from.
type limit struct {
	window string
	n      int // 0: unlimited
	origin string
}

func (l limit) String() string {
	if l.n == 0 {
		return "unlimited (" + l.origin + ")"
	}
	return strconv.Itoa(l.n) + " (" + l.origin + ")"
}

// The origins of limits.
const (
	fromSetting = "setting"
	fromAccount = "account"
	fromDefault = "default" // what a public key has
)

// limits are what follows from the settings and the account. A number that was
// set is a limit of this program's own, beside the account's; 0 lifts both. Of
// the minute the account says nothing but what an hour's 60th is.
func limits(vt *configs.VT, a quota.Account) (quota.Limits, quota.Account, []limit) {
	perMinute := a.Hour.Allowed / 60
	if a.Hour.Allowed > 0 {
		perMinute = max(perMinute, 1)
	}
	all := []limit{{window: quota.Minute}, {window: quota.Hour}, {window: quota.Day}, {window: quota.Month}}
	for i, w := range []struct {
		set     configs.Limit
		account int64
		public  int
		usage   *quota.Usage
	}{
		{vt.Minute, perMinute, virustotal.PublicMinute, &quota.Usage{}},
		{vt.Hour, a.Hour.Allowed, 0, &a.Hour},
		{vt.Day, a.Day.Allowed, virustotal.PublicDay, &a.Day},
		{vt.Month, a.Month.Allowed, virustotal.PublicMonth, &a.Month},
	} {
		l := &all[i]
		switch {
		case w.set == 0:
			*w.usage = quota.Usage{}
			l.origin = fromSetting
		case w.set != configs.LimitAuto:
			l.n, l.origin = int(w.set), fromSetting
		case w.account > 0:
			l.n, l.origin = int(w.account), fromAccount
		default:
			l.n, l.origin = w.public, fromDefault
		}
	}
	return quota.Limits{Minute: all[0].n, Hour: all[1].n, Day: all[2].n, Month: all[3].n}, a, all
}

// readsAccount: the account is read for a limit that is auto. Who sets all of
// them wants no such request.
func readsAccount(vt *configs.VT) bool {
	for _, l := range []configs.Limit{vt.Minute, vt.Hour, vt.Day, vt.Month} {
		if l == configs.LimitAuto {
			return true
		}
	}
	return false
}

// keeper keeps the limits at what the account says, from the start on.
type keeper struct {
	vt    *configs.VT
	read  func(context.Context) (quota.Account, error)
	apply func(quota.Limits, quota.Account) error // called after each reading, but for those that fail once something is known
	log   *slog.Logger

	// Of run alone.
	said    string // the limits, as the log told them
	told    bool   // the log has told the terms of a public key
	refused bool   // the log has told that the key is refused
	known   bool   // the account was read
	failing bool   // since then it cannot be
	backoff time.Duration
}

// start reads the account in the background, until stop is called.
func (k *keeper) start() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// run reads the account now and again, until ctx ends.
func (k *keeper) run(ctx context.Context) {
	for {
		a, err := k.read(ctx)
		if ctx.Err() != nil {
			return
		}
		pause := k.outcome(a, err)
		timer := time.NewTimer(notAtMidnight(time.Now(), pause))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// outcome draws the conclusions from a reading and says when the next is due.
func (k *keeper) outcome(a quota.Account, err error) time.Duration {
	if err == nil {
		if k.failing {
			k.log.Info("VirusTotal's account of the key can be read again")
		}
		k.known, k.failing, k.refused, k.backoff = true, false, false, 0
		k.learned(a, "")
		return accountEvery
	}
	why := err.Error()
	var failed *enrich.LookupError
	final := false
	if errors.As(err, &failed) {
		why = failed.Reason
		final = failed.Decision == enrich.Refused || failed.Decision == enrich.Unanswerable
	}
	switch {
	case !k.known:
		k.learned(quota.Account{}, why)
	case !k.failing:
		// What was read last goes on to hold, as long as it means anything.
		k.log.Info("VirusTotal's account of the key cannot be read for now; what it said last goes on to hold", "reason", why)
	}
	k.failing = k.known
	if final {
		return accountEvery
	}
	k.backoff = min(max(2*k.backoff, accountFirst), accountEvery)
	return k.backoff
}

// learned puts the limits in force and logs them where they are new. why is the
// reason for which the account is not known.
func (k *keeper) learned(account quota.Account, why string) {
	own, shared, all := limits(k.vt, account)
	if err := k.apply(own, shared); err != nil {
		k.log.Warn("the limits of requests to VirusTotal could not be saved", "error", err)
	}
	attrs, said, public := make([]any, 0, 10), "", false
	for _, l := range all {
		attrs = append(attrs, "vt.limit."+l.window, l.String())
		said += l.String()
		public = public || l.origin == fromDefault && l.n > 0
	}
	if said != k.said {
		k.said = said
		if why != "" {
			attrs = append(attrs, "account", "not readable: "+why)
		}
		k.log.Info("requests to VirusTotal are limited", attrs...)
	}
	if strings.HasPrefix(why, "HTTP 401") { // a key that may not read its account has another answer
		if !k.refused {
			k.refused = true
			k.log.Warn("VirusTotal refuses the key: nothing new can be looked up; vtsidecar test virustotal says what to do", "reason", why)
		}
		return
	}
	sure := account != (quota.Account{})
	if sure {
		public = virustotal.IsPublic(account)
	}
	if public && !k.told {
		k.told = true
		has := "the key has VirusTotal's public limits: "
		if !sure {
			has = "the key may have VirusTotal's public limits: "
		}
		k.log.Info(has + virustotal.PublicTerms)
	}
}

// notAtMidnight puts off what would fall into the first minutes of a day in UTC:
// then the source may still show the day before.
func notAtMidnight(now time.Time, pause time.Duration) time.Duration {
	at := now.Add(pause)
	if since := at.Sub(at.UTC().Truncate(24 * time.Hour)); since < afterMidnight {
		return pause + afterMidnight - since
	}
	return pause
}
