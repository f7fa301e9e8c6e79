// Command filebeat is Filebeat 7.17.29 as its makers wrote it, built from the
// Go module proxy, so that the tests meet the real sender. It stands in a
// module of its own: none of what it needs reaches the program.
package main

import (
	"github.com/elastic/beats/v7/filebeat/cmd"
	inputs "github.com/elastic/beats/v7/filebeat/input/default-inputs"
)

func main() {
	if err := cmd.Filebeat(inputs.Init, cmd.FilebeatSettings()).Execute(); err != nil {
		panic(err) // its words are on standard error already
	}
}
