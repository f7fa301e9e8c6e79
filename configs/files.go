package configs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// files reads what the settings name, so that a missing or wrong file is found
// before anything is opened.
func (l *loader) files() {
	l.tls()
	l.skipFile()
}

// skipFile adds the entries of skip.file to the lists.
func (l *loader) skipFile() {
	const name = "skip.file"
	s := &l.cfg.Skip
	if s.File == "" || l.bad[name] {
		return
	}
	data, ok := l.read(name, l.where(name), s.File, maxFile)
	if !ok {
		return
	}
	seen := map[string]bool{}
	wrong := 0
	number := 0
	for line := range strings.Lines(strings.TrimPrefix(string(data), "\ufeff")) {
		number++
		entry, _, _ := strings.Cut(line, "#")
		entry = strings.TrimSpace(entry)
		if entry == "" || seen[entry] {
			continue
		}
		seen[entry] = true
		if p, err := network(entry); err == nil {
			s.Networks = append(s.Networks, p)
		} else if h, err := hexHash(entry); err == nil {
			s.Hashes = append(s.Hashes, h)
		} else if d, err := domainName(entry); err == nil && !strings.ContainsAny(entry, ", ;") {
			s.Domains = append(s.Domains, d)
		} else if wrong++; wrong <= 20 { // a wrong file altogether needs no more
			l.wrong(name, fmt.Sprintf("%s line %d is no network, domain or hash: %s", quote(s.File), number, quote(entry)))
		}
	}
	if wrong > 20 {
		l.wrong(name, fmt.Sprintf("%s has %d more such lines", quote(s.File), wrong-20))
	}
	s.Networks = slices.Clip(s.Networks)
}

// secrets reads the files that secrets may stand in.
func (l *loader) secrets() {
	es := &l.cfg.Elasticsearch
	for _, s := range []struct {
		name       string
		text, file *string
		what       string
		check      func(string) error
	}{
		{"vt.api_key", &l.cfg.VT.APIKey, &l.cfg.VT.APIKeyFile, "API key", apiKey},
		{"output.elasticsearch.password", &es.Password, &es.PasswordFile, "password", inHeader},
		{"output.elasticsearch.api_key", &es.APIKey, &es.APIKeyFile, "API key", inHeader},
		{"output.elasticsearch.bearer_token", &es.BearerToken, &es.BearerFile, "token", inHeader},
	} {
		l.secret(s.name, s.text, s.file, s.what, s.check)
	}
}

// secret decides between a secret and the file it may stand in: the higher
// layer wins; both in one layer is a mistake.
func (l *loader) secret(name string, secret, path *string, what string, check func(string) error) {
	fileName := name + "_file"
	key, file := index(name), index(fileName)
	k, f := l.winner(key), l.winner(file)
	switch {
	case f == layerDefault || *path == "" && f <= k:
	case k == f:
		l.wrong(fileName, "is given beside "+name+" ("+l.where(name)+"): keep one of the two")
		return
	case k > f:
		*path = ""
		l.values[file] = [layers]*given{}
		return
	default:
		*secret = ""
		l.values[key] = [layers]*given{}
	}
	if *path == "" || l.bad[fileName] {
		return
	}
	where := l.where(fileName)
	if looksSecret(*path) {
		l.mistake(fileName, where, "names no file but looks like a key itself: write the key into a file and name that")
		return
	}
	data, ok := l.read(fileName, where, *path, 64<<10)
	if !ok {
		return
	}
	text := strings.TrimSpace(strings.TrimPrefix(string(data), "\ufeff"))
	if text == "" {
		l.mistake(fileName, where, "the file is empty: write the "+what+" into it")
	} else if err := check(text); err != nil {
		l.mistake(fileName, where, "what the file holds "+err.Error())
	} else {
		*secret = text
	}
}

// looksSecret guesses that someone put a secret where a path belongs, so that
// it is not repeated in an error.
func looksSecret(path string) bool {
	return strings.Contains(path, "-----BEGIN") ||
		len(path) >= 32 && !strings.ContainsAny(path, `/\.`)
}

// read gets a file that a setting names.
func (l *loader) read(name, where, path string, most int) ([]byte, bool) {
	if looksSecret(path) && strings.Contains(path, "-----BEGIN") {
		l.mistake(name, where, "holds PEM text: write it into a file and name that")
		return nil, false
	}
	data, err := l.in.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		l.mistake(name, where, quote(path)+" does not exist: name a file that does")
	case errors.Is(err, fs.ErrPermission):
		l.mistake(name, where, quote(path)+" may not be read by this user: mend its permissions")
	case err != nil:
		var p *fs.PathError
		if errors.As(err, &p) {
			err = p.Err
		}
		l.mistake(name, where, quote(path)+" cannot be read: "+err.Error())
	case len(data) > most:
		l.mistake(name, where, fmt.Sprintf("%s is larger than %s: name another file", quote(path), formatSize(int64(most))))
	default:
		return data, true
	}
	return nil, false
}

const maxFile = 16 << 20

// readFile is os.ReadFile with a bound: a setting may name anything, /dev/zero
// included. One byte beyond the bound shows that it was passed.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.IsDir() {
		return nil, errors.New("it is a folder")
	}
	return io.ReadAll(io.LimitReader(f, maxFile+1))
}
