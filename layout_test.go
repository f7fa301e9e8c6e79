package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The rules of the layout: imports go one way, root to rooms, rooms to
// internal, enrich to cache; some words may stand in one room only.

const module = "vtsidecar"

// goPackage is what `go list -json` says of a package.
type goPackage struct {
	ImportPath   string
	Name         string
	Dir          string
	GoFiles      []string
	CgoFiles     []string
	TestGoFiles  []string
	XTestGoFiles []string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

// rooms are the top-level folders, and what each may import of the module
// beside itself. internal is open to all of them.
var rooms = map[string][]string{
	"lumber":  {},
	"cache":   {},
	"output":  {},
	"configs": {},
	"enrich":  {"cache"},
}

// inside are the rules within a room: what each of its packages may import of it.
var inside = map[string][]string{
	"lumber":               {"lumber/inflate"},
	"lumber/inflate":       {},
	"cache":                {},
	"configs":              {},
	"output":               {},
	"output/elasticsearch": {},
	"output/logstash":      {},

	"enrich":            {"enrich/indicator", "enrich/scan", "enrich/quota"},
	"enrich/indicator":  {},
	"enrich/scan":       {},
	"enrich/quota":      {},
	"enrich/virustotal": {"enrich", "enrich/indicator", "enrich/quota"},
}

// onlyIn are libraries that belong to some places. Tests may use them anywhere,
// for instance to be the sender.
var onlyIn = map[string][]string{
	"github.com/VirusTotal/vt-go":                {"enrich/virustotal"},
	"github.com/elastic/go-lumber":               {"lumber", ".", "output/logstash", "internal/bench", "internal/torture"},
	"github.com/patrickmn/go-cache":              {"cache"},
	"github.com/elastic/elastic-transport-go/v8": {"output/elasticsearch"},
	"github.com/urfave/cli/v2":                   {".", "configs"},
	"go.yaml.in/yaml/v3":                         {"configs"},
	"github.com/prometheus/client_golang":        {"internal/metrics", "internal/admin", ".", "lumber", "enrich", "output", "output/elasticsearch", "enrich/virustotal"},
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Name,Dir,GoFiles,CgoFiles,TestGoFiles,XTestGoFiles,Imports,TestImports,XTestImports", "./...").Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		t.Fatalf("go list: %s", exit.Stderr)
	}
	require.NoError(t, err)
	var all []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		all = append(all, p)
	}
	require.NotEmpty(t, all)
	return all
}

// inModule is the path of a package within the module, "." for root; ok is
// false for packages of others.
func inModule(importPath string) (string, bool) {
	if importPath == module {
		return ".", true
	}
	return strings.CutPrefix(importPath, module+"/")
}

func within(name, dir string) bool { return name == dir || strings.HasPrefix(name, dir+"/") }

// mayImport says whether package from may import package to, both of this module.
func mayImport(from, to string) bool {
	room, _, _ := strings.Cut(from, "/")
	target, _, _ := strings.Cut(to, "/")
	allowed, isRoom := rooms[room]
	switch {
	case to == ".":
		return false
	case from == ".":
		return true
	case from == "internal/bench":
		return to == "lumber" || target == "internal" // measures that room alone
	case room == "internal":
		return target == "internal"
	case target == "internal":
		return true
	case !isRoom:
		return true // examples and benchmarks stand beside root
	case room == target:
		return slices.Contains(inside[from], to)
	}
	return slices.Contains(allowed, target)
}

func TestImportsGoOneWay(t *testing.T) {
	for _, p := range packages(t) {
		from, ok := inModule(p.ImportPath)
		require.True(t, ok)
		top, _, _ := strings.Cut(from, "/")
		if _, isRoom := rooms[top]; isRoom {
			assert.Contains(t, inside, from, "a new package in a room needs its rule here")
		}
		for _, i := range p.Imports {
			// A program (a benchmark, the stand-in) is nobody's room: like root it
			// may put anything together, and nobody can import it.
			if to, ok := inModule(i); ok && p.Name != "main" {
				assert.True(t, mayImport(from, to), "%s imports %s", from, to)
			}
			for library, places := range onlyIn {
				if within(i, library) && !slices.Contains(places, from) {
					assert.Fail(t, "a library out of its room", "%s imports %s", from, i)
				}
			}
		}
	}
}

// vt-go is spoken of in one room, tests included: what others need of it is a Source.
func TestVirusTotalStaysInItsRoom(t *testing.T) {
	for _, p := range packages(t) {
		from, _ := inModule(p.ImportPath)
		for _, i := range slices.Concat(p.TestImports, p.XTestImports) {
			if within(i, "github.com/VirusTotal/vt-go") {
				assert.Equal(t, "enrich/virustotal", from)
			}
		}
	}
}

// One exit: os.Exit, log.Fatal and their like stand in the program's main.go and
// nowhere else, so that every deferred close is run.
func TestOneExit(t *testing.T) {
	for _, p := range packages(t) {
		for _, f := range slices.Concat(p.GoFiles, p.CgoFiles) {
			if p.ImportPath == "vtsidecar" && f == "main.go" {
				continue
			}
			inspectCalls(filepath.Join(p.Dir, f), func(call, at string) {
				switch call {
				case "os.Exit", "log.Fatal", "log.Fatalf", "log.Fatalln", "syscall.Exit", "golang.org/x/sys/unix.Exit":
					assert.Fail(t, "an exit outside main.go", "%s: %s", at, call)
				}
			})
		}
	}
}

// An interface has one or two methods, or its comment says why it is larger.
func TestInterfacesAreSmall(t *testing.T) {
	for _, p := range packages(t) {
		for _, f := range slices.Concat(p.GoFiles, p.CgoFiles) {
			set := token.NewFileSet()
			tree, err := parser.ParseFile(set, filepath.Join(p.Dir, f), nil, parser.ParseComments|parser.SkipObjectResolution)
			require.NoError(t, err)
			for _, d := range tree.Decls {
				decl, ok := d.(*ast.GenDecl)
				if !ok {
					continue
				}
				said := strings.Contains(strings.Join(strings.Fields(decl.Doc.Text()), " "), "larger than an interface should be")
				for _, s := range decl.Specs {
					named, ok := s.(*ast.TypeSpec)
					if !ok {
						continue
					}
					if i, ok := named.Type.(*ast.InterfaceType); ok {
						assert.Equal(t, len(i.Methods.List) > 2, said, "%s: %s has %d methods", set.Position(s.Pos()), named.Name, len(i.Methods.List))
					}
				}
			}
		}
	}
}

// What a package's comment says of its files is so.
func TestWhereToLook(t *testing.T) {
	name := regexp.MustCompile(`\b[a-z_]+\.go\b`)
	for _, p := range packages(t) {
		for _, f := range p.GoFiles {
			tree, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, parser.ParseComments|parser.PackageClauseOnly)
			require.NoError(t, err)
			assert.Subset(t, p.GoFiles, name.FindAllString(tree.Doc.Text(), -1), p.ImportPath)
		}
	}
}

// No test sleeps: it waits for the thing itself, or in a bubble of synctest lets
// time pass by internal/faketime, which knows a bubble from the world.
func TestNoTestSleeps(t *testing.T) {
	for _, p := range packages(t) {
		for _, f := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			inspectCalls(filepath.Join(p.Dir, f), func(call, at string) {
				assert.NotEqual(t, "time.Sleep", call, at)
			})
		}
	}
}

// inspectCalls calls each for what a file uses of other packages, as the import
// path, a dot and the name, with its place.
func inspectCalls(file string, each func(call, at string)) {
	set := token.NewFileSet()
	tree, err := parser.ParseFile(set, file, nil, parser.SkipObjectResolution)
	if err != nil {
		return // the compiler says so better
	}
	names := map[string]string{}
	for _, i := range tree.Imports {
		where, _ := strconv.Unquote(i.Path.Value)
		local := path.Base(where)
		if i.Name != nil {
			local = i.Name.Name
		}
		names[local] = where
	}
	ast.Inspect(tree, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := sel.X.(*ast.Ident); ok {
				each(names[x.Name]+"."+sel.Sel.Name, set.Position(n.Pos()).String())
			}
		}
		return true
	})
}

// The rules themselves.
func TestImportRules(t *testing.T) {
	for _, tt := range []struct {
		from, to string
		want     bool
	}{
		{".", "lumber", true}, {"lumber", ".", false}, {"lumber", "enrich", false}, {"lumber", "internal/event", true}, {"lumber", "lumber/inflate", true}, {"lumber/inflate", "lumber", false},
		{"enrich", "cache", true}, {"enrich/virustotal", "cache", true}, {"cache", "enrich", false}, {"enrich", "output", false}, {"output", "configs", false}, {"output", "output/elasticsearch", false}, {"output/elasticsearch", "output", false}, {"output/logstash", "output/elasticsearch", false},
		{"internal/event", "cache", false}, {"internal/admin", "internal/metrics", true}, {"internal/event", ".", false},
		{"enrich", "enrich/scan", true}, {"enrich", "enrich/virustotal", false}, {"enrich/virustotal", "enrich", true}, {"enrich/virustotal", "enrich/scan", false},
		{"enrich/scan", "enrich/indicator", false}, {"configs", "enrich/indicator", false}, {"examples", "configs", true},
	} {
		assert.Equal(t, tt.want, mayImport(tt.from, tt.to), "%s to %s", tt.from, tt.to)
	}
}
