//go:build race

package lumber

// underRace: the race detector makes stacks and heaps larger.
const underRace = true
