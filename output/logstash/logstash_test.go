package logstash_test

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"vtsidecar/internal/event"
	"vtsidecar/internal/faketime"
	"vtsidecar/output/logstash"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a peer without a network. It keeps what it took and complains about
// what no Beat would send.
type fake struct {
	t  *testing.T
	mu sync.Mutex
	// does is what each host does with a window, in order; behind the last: "ack".
	does   map[string][]string
	stored map[string]int  // by line
	took   map[string]int  // windows by host
	dials  map[string]int  // by host
	acked  map[string]bool // lines in windows whose whole ack went out
	open   sync.WaitGroup  // connections
	most   int             // connections at a time
	live   int
}

func newFake(t *testing.T) *fake {
	return &fake{t: t, does: map[string][]string{}, stored: map[string]int{}, took: map[string]int{}, dials: map[string]int{}, acked: map[string]bool{}}
}

func (f *fake) next(host string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := f.does[host]
	if len(all) == 0 {
		return "ack"
	}
	if all[0] != "refuse for ever" {
		f.does[host] = all[1:]
	}
	return all[0]
}

func (f *fake) dial(ctx context.Context, host string) (net.Conn, error) {
	f.mu.Lock()
	f.dials[host]++
	refuse := len(f.does[host]) > 0 && strings.HasPrefix(f.does[host][0], "refuse")
	f.mu.Unlock()
	if refuse {
		f.next(host)
		return nil, errors.New("connection refused")
	}
	a, b := net.Pipe()
	f.open.Add(1)
	f.mu.Lock()
	f.live++
	f.most = max(f.most, f.live)
	f.mu.Unlock()
	go func() {
		defer f.open.Done()
		defer func() { f.mu.Lock(); f.live--; f.mu.Unlock() }()
		defer b.Close()
		f.serve(host, b)
	}()
	return a, nil
}

func (f *fake) serve(host string, conn net.Conn) {
	for {
		lines, err := readWindow(conn)
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrClosedPipe) {
				assert.NoError(f.t, err)
			}
			return
		}
		assert.LessOrEqual(f.t, len(lines), 2048)
		keep := func(n int) {
			f.mu.Lock()
			defer f.mu.Unlock()
			for _, l := range lines[:n] {
				assert.True(f.t, json.Valid([]byte(l)), l)
				f.stored[l]++
			}
		}
		ack := func(n int) { conn.Write(binary.BigEndian.AppendUint32([]byte("2A"), uint32(n))) }
		f.mu.Lock()
		f.took[host]++
		f.mu.Unlock()
		switch what := f.next(host); what {
		case "ack":
			keep(len(lines))
			f.mu.Lock()
			for _, l := range lines {
				f.acked[l] = true
			}
			f.mu.Unlock()
			ack(len(lines))
		case "keepalives":
			for range 10 {
				faketime.Pass(f.t, 20*time.Second)
				ack(0)
			}
			keep(len(lines))
			f.mu.Lock()
			for _, l := range lines {
				f.acked[l] = true
			}
			f.mu.Unlock()
			ack(len(lines))
		case "keepalives for ever":
			for {
				faketime.Pass(f.t, 20*time.Second)
				if _, err := conn.Write([]byte("2A\x00\x00\x00\x00")); err != nil {
					return
				}
			}
		case "drop", "refuse for ever": // it was there before
			return
		case "drop later":
			faketime.Pass(f.t, time.Second)
			return
		case "stored and dropped":
			keep(len(lines))
			return
		case "half, then dropped":
			keep(len(lines) / 2)
			ack(len(lines) / 2)
			return
		case "beyond":
			ack(len(lines) + 1)
		case "nonsense":
			conn.Write([]byte("HTTP/1.1 400"))
		case "silence":
			io.Copy(io.Discard, conn)
			return
		case "ack and close", "ack twice":
			keep(len(lines))
			f.mu.Lock()
			for _, l := range lines {
				f.acked[l] = true
			}
			f.mu.Unlock()
			if what == "ack and close" {
				ack(len(lines))
				return
			}
			one := binary.BigEndian.AppendUint32([]byte("2A"), uint32(len(lines)))
			go conn.Write(append(one, one...))
			_, _ = readWindow(conn) // and the next one is lost, if there is one
			faketime.Pass(f.t, time.Second)
			return
		default:
			assert.Fail(f.t, "what is "+what)
			return
		}
	}
}

// readWindow reads one as go-lumber sends it: W, then C with J inside.
func readWindow(r io.Reader) ([]string, error) {
	var head [12]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, io.EOF
	}
	if string(head[:2]) != "2W" || string(head[6:8]) != "2C" {
		return nil, fmt.Errorf("frames %q and %q", head[:2], head[6:8])
	}
	count := binary.BigEndian.Uint32(head[2:])
	body := make([]byte, binary.BigEndian.Uint32(head[8:]))
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, io.EOF
	}
	z, err := zlib.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		return nil, err
	}
	var lines []string
	for seq := uint32(1); len(plain) > 0; seq++ {
		if string(plain[:2]) != "2J" || binary.BigEndian.Uint32(plain[2:]) != seq {
			return nil, fmt.Errorf("frame %q", plain[:6])
		}
		n := 10 + int(binary.BigEndian.Uint32(plain[6:]))
		lines = append(lines, string(plain[10:n]))
		plain = plain[n:]
	}
	if int(count) != len(lines) {
		return nil, fmt.Errorf("%d events in a window of %d", len(lines), count)
	}
	return lines, nil
}

func linesOf(from, to int) (*event.Lines, []string) {
	l := &event.Lines{}
	var texts []string
	for i := from; i < to; i++ {
		text := fmt.Sprintf(`{"n":%d,"@metadata":{"_id":"%d"}}`, i, i)
		texts = append(texts, text)
		l.Buf = append(append(l.Buf, text...), '\n')
		l.Index = append(l.Index, event.Line{End: len(l.Buf)})
	}
	return l, texts
}

type bench struct {
	*fake
	out *logstash.Output
	log *bytes.Buffer
}

func open(t *testing.T, hosts []string, change ...func(*logstash.Config)) *bench {
	b := &bench{fake: newFake(t), log: &bytes.Buffer{}}
	cfg := logstash.Config{Hosts: hosts, Dial: b.dial, Log: slog.New(slog.NewTextHandler(b.log, nil))}
	for _, f := range change {
		f(&cfg)
	}
	var err error
	b.out, err = logstash.Open(cfg)
	require.NoError(t, err)
	return b
}

func (b *bench) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	require.NoError(b.t, b.out.Close(ctx))
	b.open.Wait()
	assert.NotContains(b.t, b.log.String(), "@metadata", "an event is in the log")
}

// store stores and looks whether nil was true.
func (b *bench) store(from, to int) error {
	l, texts := linesOf(from, to)
	err := b.out.Store(b.t.Context(), l)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, text := range texts {
		if err == nil {
			assert.True(b.t, b.acked[text], "nil before the ack of %s", text)
		}
	}
	for i := range l.Buf {
		l.Buf[i] = '#' // the caller's again
	}
	return err
}

// Whatever a peer does, in the end each line is acknowledged, and sent no more
// often than it had to be.
func TestFaults(t *testing.T) {
	for does, want := range map[string]struct {
		copies int
		within time.Duration
	}{
		"ack":                 {1, 0},
		"drop":                {1, 2 * time.Second},
		"drop,drop,drop":      {1, 8 * time.Second},
		"stored and dropped":  {2, 2 * time.Second},
		"half, then dropped":  {1, 2 * time.Second}, // the first half twice
		"beyond":              {1, 2 * time.Second},
		"nonsense":            {1, 2 * time.Second},
		"silence":             {1, 32 * time.Second},
		"keepalives":          {1, 200 * time.Second},
		"keepalives for ever": {1, 11 * time.Minute},
		"refuse,refuse":       {1, 4 * time.Second},
		"ack and close":       {1, 0},
		"ack twice":           {1, 0}, // the second one is not the next window's
	} {
		t.Run(does, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := open(t, []string{"a:1"})
				b.does["a:1"] = strings.Split(does, ",")
				if does == "half, then dropped" {
					b.does["a:1"] = []string{does}
				}
				began := time.Now()
				require.NoError(t, b.store(0, 100))
				assert.LessOrEqual(t, time.Since(began), want.within)
				require.NoError(t, b.out.Ready())
				if does == "keepalives" {
					assert.Equal(t, 1, b.took["a:1"], "a peer that is busy is waited for, and sent nothing again")
				}
				require.NoError(t, b.store(100, 200), "and the next window")
				_, texts := linesOf(0, 100)
				for i, text := range texts {
					copies := want.copies
					if strings.HasPrefix(does, "half") && i < 50 {
						copies = 2
					}
					assert.Equal(t, copies, b.stored[text], text)
				}
				b.close()
			})
		})
	}
}

// While no peer is well readiness says why, and the log says it once.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, []string{"a:1", "b:2"})
		b.does["a:1"], b.does["b:2"] = []string{"refuse for ever"}, []string{"refuse for ever"}
		done := make(chan error, 5)
		for i := range 5 {
			go func() { done <- b.store(10*i, 10*i+10) }()
		}
		faketime.Pass(t, 10*time.Minute)
		synctest.Wait()
		require.ErrorContains(t, b.out.Ready(), "output.logstash.hosts: a:1: connection refused; b:2: connection refused")
		b.mu.Lock()
		assert.Less(t, b.dials["a:1"], 30, "it hammers")
		assert.Greater(t, b.dials["a:1"], 8, "it sleeps")
		b.does["a:1"] = nil
		b.mu.Unlock()
		for range 5 {
			require.NoError(t, <-done)
		}
		require.NoError(t, b.out.Ready())
		assert.Equal(t, 2, strings.Count(b.log.String(), "\n"), b.log)
		assert.Len(t, b.stored, 50)
		b.close()
	})
}

// A sick host is left alone, and tried again from time to time.
func TestSickHostIsRested(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, []string{"a:1", "b:2"})
		b.does["a:1"] = []string{"refuse for ever"}
		for i := range 300 {
			require.NoError(t, b.store(i, i+1))
			faketime.Pass(t, time.Second)
		}
		require.NoError(t, b.out.Ready())
		assert.Less(t, b.dials["a:1"], 15)
		b.mu.Lock()
		b.does["a:1"] = nil
		b.mu.Unlock()
		faketime.Pass(t, time.Minute)
		for i := range 50 {
			require.NoError(t, b.store(300+i, 301+i))
		}
		assert.NotZero(t, b.took["a:1"], "it is used again")
		b.close()
	})
}

// A slow window has a connection to itself; the load is over all hosts.
func TestSlowWindowHoldsNobodyBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, []string{"a:1", "b:2"})
		b.does["a:1"], b.does["b:2"] = []string{"keepalives"}, []string{"keepalives"}
		slow := make(chan error, 2)
		for i := range 2 {
			go func() { slow <- b.store(1000+i, 1001+i) }()
			synctest.Wait()
		}
		began := time.Now()
		done := make(chan error, 40)
		for i := range 40 {
			go func() { done <- b.store(10*i, 10*i+10) }()
		}
		for range 40 {
			require.NoError(t, <-done)
		}
		assert.Less(t, time.Since(began), time.Second)
		assert.LessOrEqual(t, b.most, 16)
		assert.NotZero(t, b.took["a:1"])
		assert.NotZero(t, b.took["b:2"])
		require.NoError(t, <-slow)
		require.NoError(t, <-slow)
		b.close()
	})
}

// Many lines are several windows; a giant goes alone.
func TestWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, []string{"a:1"})
		require.NoError(t, b.store(0, 5000))
		assert.Equal(t, 3, b.took["a:1"])
		assert.Len(t, b.stored, 5000)

		l := &event.Lines{}
		for range 3 {
			l.Buf = append(l.Buf, `{"x":"`+strings.Repeat("y", 5<<20)+"\"}\n"...)
			l.Index = append(l.Index, event.Line{End: len(l.Buf)})
		}
		require.NoError(t, b.out.Store(t.Context(), l))
		assert.Equal(t, 6, b.took["a:1"])
		require.NoError(t, b.out.Store(t.Context(), &event.Lines{}), "nothing is stored at once")
		b.close()
	})
}

// The end of the context, and Close, end a Store that waits.
func TestEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, []string{"a:1"})
		b.does["a:1"] = []string{"keepalives for ever", "keepalives for ever"}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		l, _ := linesOf(0, 3)
		go func() { done <- b.out.Store(ctx, l) }()
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		require.NoError(t, b.out.Ready(), "that was nobody's fault")

		go func() { done <- b.out.Store(t.Context(), l) }()
		synctest.Wait()
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorContains(t, b.out.Close(ctx), "1 windows")
		require.ErrorIs(t, <-done, logstash.ErrClosed)
		require.ErrorIs(t, b.out.Store(t.Context(), l), logstash.ErrClosed)
		b.open.Wait()
	})
}

// Windows that fail together say once that a host is away: it is tried again
// after a second, not after a minute.
func TestFailuresTogetherCountOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, []string{"a:1"})
		b.does["a:1"] = strings.Split(strings.Repeat("drop later,", 8)+"ack", ",")
		began := time.Now()
		done := make(chan error, 8)
		for i := range 8 {
			go func() { done <- b.store(10*i, 10*i+10) }()
		}
		for range 8 {
			require.NoError(t, <-done)
		}
		assert.LessOrEqual(t, time.Since(began), 3*time.Second)
		assert.Equal(t, 16, b.took["a:1"])
		b.close()
	})
}

// An outage that nobody meets again is forgotten, for who sends only where it is
// ready would never end it.
func TestOutageLapses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, []string{"a:1"})
		b.does["a:1"] = []string{"refuse for ever"}
		ctx, cancel := context.WithCancel(t.Context())
		l, _ := linesOf(0, 3)
		done := make(chan error, 1)
		go func() { done <- b.out.Store(ctx, l) }()
		faketime.Pass(t, 10*time.Minute)
		require.Error(t, b.out.Ready(), "a window waits")
		cancel()
		require.Error(t, <-done)
		require.Error(t, b.out.Ready(), "it was away a moment ago")
		faketime.Pass(t, 5*time.Minute)
		require.NoError(t, b.out.Ready())
		go func() { done <- b.out.Store(t.Context(), l) }()
		synctest.Wait()
		require.ErrorContains(t, b.out.Ready(), "connection refused", "it is still away")
		b.mu.Lock()
		b.does["a:1"] = nil
		b.mu.Unlock()
		require.NoError(t, <-done)
		require.NoError(t, b.out.Ready())
		b.close()
	})
}

// One window after the other goes to all hosts too.
func TestHostsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, []string{"a:1", "b:2", "c:3"})
		for i := range 30 {
			require.NoError(t, b.store(i, i+1))
		}
		assert.Equal(t, map[string]int{"a:1": 10, "b:2": 10, "c:3": 10}, b.took)
		assert.Equal(t, map[string]int{"a:1": 1, "b:2": 1, "c:3": 1}, b.dials, "connections are kept")
		b.close()
	})
}

// A connection is kept after a giant, what the giant took is not.
func TestGiantsKeepTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, []string{"a:1"})
		noise := make([]byte, 3<<20)
		for i := range noise {
			noise[i] = "0123456789abcdef"[rand.IntN(16)]
		}
		l := &event.Lines{Buf: fmt.Appendf(nil, "{\"x\":\"%s%s\"}\n", noise, noise[:2<<20])}
		l.Index = []event.Line{{End: len(l.Buf)}}
		require.NoError(t, b.out.Store(t.Context(), l))
		require.NoError(t, b.store(0, 10))
		assert.Equal(t, 1, b.dials["a:1"])
		b.close()
	})
}

// What a peer answers may be anything: nil comes of the right ack only.
func FuzzAnswers(f *testing.F) {
	for _, s := range []string{"2A\x00\x00\x00\x03", "2A\x00\x00\x00\x00", "2A\x00\x00\x00\x01" + "2A\x00\x00\x00\x03", "2A\x00\x00\x00\x04", "1A\x00\x00\x00\x03", "2A\xff\xff\xff\xff", "HTTP/1.1 400", "2A\x00", ""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		want := false
		for rest := answer; len(rest) >= 6 && string(rest[:2]) == "2A"; rest = rest[6:] {
			if n := binary.BigEndian.Uint32(rest[2:]); n >= 3 {
				want = n == 3
				break
			}
		}
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			dials := 0
			out, err := logstash.Open(logstash.Config{Hosts: []string{"a:1"}, Dial: func(context.Context, string) (net.Conn, error) {
				if dials++; dials > 1 {
					cancel() // it is tried again, so the answer was not taken for the ack
					return nil, errors.New("refused")
				}
				a, b := net.Pipe()
				go func() {
					defer b.Close()
					if _, err := readWindow(b); err == nil {
						b.Write(answer)
					}
				}()
				return a, nil
			}})
			require.NoError(t, err)
			l, _ := linesOf(0, 3)
			err = out.Store(ctx, l)
			require.Equal(t, want, err == nil, "%q: %v", answer, err)
			require.NoError(t, out.Close(context.Background()))
		})
	})
}
