// Command demo shows what an output file of the program holds: one line for
// each event, then the first malicious event in full, laid out for people and
// otherwise as it stands in the file. It prints nothing when no event is malicious.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	if err := show(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
	}
}

func show(in io.Reader, out io.Writer) error {
	var list, full strings.Builder
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
			text, err := layout(line, "  ", 2)
			if err != nil {
				return fmt.Errorf("a line of the output: %w", err)
			}
			full.WriteString(text)
		}
	}
	if full.Len() == 0 {
		return nil
	}
	_, err := fmt.Fprintf(out, "What became of each event:\n\n%s\nThe first malicious one, in full:\n\n  %s\n", list.String(), full.String())
	return err
}
