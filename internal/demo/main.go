// Command demo shows what an output file of the program holds: one line for
// each event, then the first malicious event in full, indented and otherwise
// as it stands in the file. It prints nothing when no event is malicious.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
)

func main() {
	if err := show(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
	}
}

func show(in io.Reader, out io.Writer) error {
	var list, full bytes.Buffer
	for r := bufio.NewReader(in); ; {
		line, err := r.ReadBytes('\n')
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		var event struct {
			Arcanna struct {
				IOC struct {
					IsMalicious bool `json:"is_malicious"`
					Global      struct{ Result, Explanation string }
				}
			}
		}
		if err := json.Unmarshal(line, &event); err != nil {
			return fmt.Errorf("a line of the output: %w", err)
		}
		ioc := event.Arcanna.IOC
		fmt.Fprintf(&list, "  %-11s %s\n", ioc.Global.Result, ioc.Global.Explanation)
		if ioc.IsMalicious && full.Len() == 0 {
			if err := json.Indent(&full, bytes.TrimSpace(line), "  ", "  "); err != nil {
				return err
			}
		}
	}
	if full.Len() == 0 {
		return nil
	}
	_, err := fmt.Fprintf(out, "What became of each event:\n\n%s\nThe first malicious one, as it stands in the file:\n\n  %s\n", list.Bytes(), full.Bytes())
	return err
}
