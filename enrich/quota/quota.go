// Package quota counts requests against the limits of a minute, a day and a
// month.
//
// Promise: no request is made that is not already on disk as made, so a
// restart, a crash or a power cut never makes the program exceed a limit.
package quota

import "time"

// Limits are the most requests in each window; 0 means unlimited.
type Limits struct{ Minute, Day, Month int }

// Quota keeps the counts. It is safe for concurrent use.
type Quota struct{}

// Open reads the counts kept at path, or starts anew. Days and months are in UTC.
func Open(path string, limits Limits, now func() time.Time) (*Quota, error) {
	panic("not written yet")
}

// Take counts one request, durably. Where none is left, ok is false and until
// says when the next window begins that would allow one.
func (q *Quota) Take() (ok bool, until time.Time, window string, err error) {
	panic("not written yet")
}

// Spent records that the source itself says a window is used up, until then.
func (q *Quota) Spent(window string, until time.Time) error { panic("not written yet") }

// Left is how many requests remain now in each limited window ("minute", "day",
// "month").
func (q *Quota) Left() map[string]int { panic("not written yet") }

// Close gives back what was reserved ahead and closes the file.
func (q *Quota) Close() error { panic("not written yet") }
