package main

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
)

// eachLine calls do for each line of r, without its end; the bytes are valid
// until the next. A line without an end is an error.
func eachLine(r io.Reader, do func(line []byte) error) error {
	var long []byte
	for b := bufio.NewReaderSize(r, 1<<20); ; {
		part, err := b.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			long = append(long, part...)
			continue
		}
		if len(long) > 0 {
			long = append(long, part...)
			part = long
		}
		if err == io.EOF {
			if len(part) > 0 {
				return fmt.Errorf("the last line has no end: %.100s", part)
			}
			return nil
		}
		if err != nil {
			return err
		}
		if err := do(part[:len(part)-1]); err != nil {
			return err
		}
		long = long[:0]
	}
}

// rotated is the name of a closed output file.
var rotated = regexp.MustCompile(`^events-(\d{8}T\d{6})-(\d+)\.ndjson(\.gz)?$`)

// closedFiles are the closed output files in their order, each once: of a file
// that is being compressed the plain one.
func closedFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	type file struct {
		name, stamp string
		number      int
	}
	var files []file
	seen := map[string]bool{}
	for _, e := range entries { // in order of name: the plain one first
		m := rotated.FindStringSubmatch(e.Name())
		if m == nil || seen[stemOf(e.Name())] {
			continue
		}
		seen[stemOf(e.Name())] = true
		n, _ := strconv.Atoi(m[2]) // digits
		files = append(files, file{e.Name(), m[1], n})
	}
	sort.Slice(files, func(i, j int) bool {
		a, b := files[i], files[j]
		return a.stamp < b.stamp || a.stamp == b.stamp && a.number < b.number
	})
	var names []string
	for _, f := range files {
		names = append(names, f.name)
	}
	return names, nil
}

// stemOf is a closed file's name, compressed or not.
func stemOf(name string) string { return strings.TrimSuffix(name, ".gz") }

// readOutput calls do for each line of one output file. Of a file that was set
// aside after a failed write, only the part before the mark beside it counts.
func readOutput(path string, do func([]byte) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		z, err := gzip.NewReader(bufio.NewReaderSize(f, 1<<16))
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		r = z
	}
	marks, err := filepath.Glob(path + ".cut-*")
	if err != nil {
		return err
	}
	for _, mark := range marks {
		n, err := strconv.ParseInt(strings.TrimPrefix(mark, path+".cut-"), 10, 64)
		if err != nil {
			return fmt.Errorf("%s: %w", mark, err)
		}
		r = io.LimitReader(r, n)
	}
	if err := eachLine(r, do); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// readAll gives everything that a sidecar which is not running has stored to a
// ledger; what is no healthy sender's goes to others, where that is set.
func readAll(s *sidecar, l *ledger, others func(line []byte)) error {
	out := filepath.Join(s.dir, "out")
	names, err := closedFiles(out)
	if err != nil {
		return err
	}
	for _, name := range append(names, "events.ndjson") {
		err := readOutput(filepath.Join(out, name), func(line []byte) error {
			if !l.line(line) && others != nil {
				others(line)
			}
			return nil
		})
		if err != nil && !(name == "events.ndjson" && errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	return readLetters(s, func(line []byte) error {
		_, err := l.buried(line)
		return err
	})
}

// readLetters calls do for each line of the dead letter.
func readLetters(s *sidecar, do func([]byte) error) error {
	names, err := filepath.Glob(filepath.Join(s.dir, "data", "dead-letter", "dead-letter*.ndjson"))
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := readOutput(name, do); err != nil {
			return err
		}
	}
	return nil
}
