package lumber

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Every reason that a metric can carry is explained to operators, and there from
// the start.
func TestReasonsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/wire.md")
	require.NoError(t, err)
	f, err := parser.ParseFile(token.NewFileSet(), "reason.go", nil, 0)
	require.NoError(t, err)
	internal := []string{reasonNoData, reasonHandler, reasonStuck, reasonClosing} // in log lines at most
	n := 0
	ast.Inspect(f, func(node ast.Node) bool {
		spec, ok := node.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, "reason") {
			return true
		}
		reason, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		require.NoError(t, err)
		for _, i := range internal {
			if reason == i {
				return true
			}
		}
		n++
		assert.Contains(t, string(doc), "`"+reason+"`", "not in docs/wire.md")
		assert.Contains(t, protocolReasons, reason)
		return true
	})
	assert.Greater(t, n, 20)
	assert.Len(t, protocolReasons, n)
}
