package main

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"vtsidecar/configs"
	"vtsidecar/internal/finding"
	"vtsidecar/output/elasticsearch"
)

// testOutputCommand looks at where events go, without sending one there. It
// fails where events would wait or be refused.
func testOutputCommand(c *cli.Context, e env) error {
	if err := noArguments(c); err != nil {
		return err
	}
	cfg, err := load(c, e)
	if err != nil {
		return err
	}
	for _, warning := range cfg.Warnings {
		fmt.Fprintln(e.stderr, "warning: "+warning)
	}
	var found finding.List
	switch cfg.Output {
	case configs.OutputToElasticsearch:
		parts, err := partNames(cfg)
		if err != nil {
			return err
		}
		found, err = elasticsearch.Examine(c.Context, elasticsearch.Examination{Client: searchClient(cfg), Config: searchConfig(cfg), Parts: parts})
		if err != nil {
			return err
		}
	case configs.OutputToLogstash:
		for _, host := range cfg.Logstash.Hosts {
			checkLogstash(c.Context, cfg, host, &found)
		}
	default:
		checkFile(cfg.OutputFile.Path, &found)
	}
	if err := c.Context.Err(); err != nil {
		return err
	}
	if c.Bool("json") {
		err = prettyTo(e.stdout).Encode(found)
	} else {
		err = printFindings(e.stdout, found)
	}
	if err != nil {
		return err
	}
	if n := found.Count(finding.Wrong); n > 0 {
		return fmt.Errorf("test output: %d of %d findings must be mended", n, len(found))
	}
	return nil
}

func printFindings(w io.Writer, found finding.List) error {
	var b strings.Builder
	for _, f := range found {
		fmt.Fprintf(&b, "%-8s %s: %s\n", f.Result, f.What, f.Detail)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// checkFile looks whether files can be made where the output file is, or is to be.
func checkFile(path string, found *finding.List) {
	const what = "output.file.path"
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		found.Wrong(what, "%v", err)
		return
	case !info.Mode().IsRegular():
		found.Wrong(what, "%s is no regular file: name another", path)
		return
	default:
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			found.Wrong(what, "%v: let the server's user write to it", err)
			return
		}
		f.Close() // nothing was written
	}
	dir := filepath.Dir(path)
	there := dir
	info, err := os.Stat(there)
	for errors.Is(err, fs.ErrNotExist) && filepath.Dir(there) != there {
		there = filepath.Dir(there)
		info, err = os.Stat(there)
	}
	switch {
	case err != nil:
		found.Wrong(what, "%v", err)
		return
	case !info.IsDir():
		found.Wrong(what, "%s is no folder", there)
		return
	}
	f, err := os.CreateTemp(there, ".vtsidecar-test-")
	if err != nil {
		found.Wrong(what, "no file can be made: %v: let the server's user write to the folder", err)
		return
	}
	// As much as a window may be: a disk that is full takes a few bytes still.
	_, err = f.Write(make([]byte, 8<<20))
	if err = errors.Join(err, f.Sync(), f.Close(), os.Remove(f.Name())); err != nil {
		found.Wrong(what, "a file can be made in %s but not written: %v", there, err)
		return
	}
	if there != dir {
		found.OK(what, "%s is not there yet; it can be made in %s, and files be written", dir, there)
		return
	}
	found.OK(what, "files can be written in %s", dir)
}

// checkLogstash connects to a host and sends it a window of no events. Some
// servers of the protocol acknowledge that; Logstash itself waits for more.
func checkLogstash(ctx context.Context, cfg *configs.Config, host string, found *finding.List) {
	const setting = "output.logstash"
	timeout := min(cfg.Logstash.Timeout, 10*time.Second)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", host)
	if err != nil {
		found.Wrong(host, "%s", finding.Connection(err, setting))
		return
	}
	defer func() { conn.Close() }()
	name, _, _ := net.SplitHostPort(host)
	conf := cfg.Logstash.SSL.For(name)
	how := "over TCP"
	if conf != nil {
		secure := tls.Client(conn, conf)
		if err := secure.HandshakeContext(ctx); err != nil {
			found.Wrong(host, "%s", finding.Connection(err, setting))
			return
		}
		conn, how = secure, "over TLS"
	}
	// A server that closes does it soon; one that waits for more would for long.
	err = conn.SetDeadline(time.Now().Add(min(timeout, logstashPatience)))
	if err == nil {
		_, err = conn.Write(binary.BigEndian.AppendUint32([]byte("2W"), 0))
	}
	answer := make([]byte, 6)
	n := 0
	if err == nil {
		n, err = io.ReadFull(conn, answer)
	}
	var late net.Error
	switch {
	case n >= 2 && string(answer[:2]) == "2A":
		found.OK(host, "answers %s as a beats input does", how)
	case n == 0 && errors.As(err, &late) && late.Timeout():
		found.OK(host, "takes connections %s and waits for events, as a beats input does", how)
	case conf == nil && finding.SpeaksTLS(ctx, host):
		found.Wrong(host, "it speaks TLS on this port: set output.logstash.ssl.enabled, and .ssl.certificate_authorities to its authority")
	case n > 0:
		found.Wrong(host, "what answers there is no beats input: check host and port in output.logstash.hosts")
	default:
		found.Wrong(host, "%s", finding.Connection(err, setting))
	}
}

const logstashPatience = 2 * time.Second
