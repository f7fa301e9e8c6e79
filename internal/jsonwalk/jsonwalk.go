// Package jsonwalk finds the way through JSON without copying it: where things
// begin and end, and how they are spelled.
//
// Promise: what it hands out ends where it should, and everything before it was
// there whole. Of what it only passes over it believes a little more than it should:
// whether JSON is valid is encoding/json's to say.
package jsonwalk

import (
	"bytes"
	"encoding/json"
	"errors"
)

// ErrSyntax says that something else stands there than was asked for.
var ErrSyntax = errors.New("not the JSON that was expected")

const deepest = 64 // objects and arrays in one another; what is walked through here is flat

// Walker stands somewhere in a JSON text. What it returns aliases that.
type Walker struct {
	b     []byte
	p     int
	depth int
}

// New is a Walker before the first byte.
func New(b []byte) Walker { return Walker{b: b} }

// Offset is how many bytes are behind the Walker.
func (c *Walker) Offset() int { return c.p }

// End is nil where nothing but blanks follows.
func (c *Walker) End() error {
	if c.blank(); c.p < len(c.b) {
		return ErrSyntax
	}
	return nil
}

// Unquote is what the inside of a JSON string says; empty where it is none.
func Unquote(inside []byte) string {
	var s string
	quoted := append(append([]byte{'"'}, inside...), '"')
	if json.Unmarshal(quoted, &s) != nil {
		return ""
	}
	return s
}

func (c *Walker) blank() {
	for c.p < len(c.b) {
		switch c.b[c.p] {
		case ' ', '\t', '\n', '\r':
			c.p++
		default:
			return
		}
	}
}

// take passes over one byte if it is next.
func (c *Walker) take(want byte) bool {
	if c.blank(); c.p < len(c.b) && c.b[c.p] == want {
		c.p++
		return true
	}
	return false
}

// Object passes over an object, and calls member behind each key, as it is spelled
// without its quotes, to pass over the value. Its error ends the walk.
func (c *Walker) Object(member func(key []byte) error) error {
	if !c.take('{') {
		return ErrSyntax
	}
	if c.take('}') {
		return nil
	}
	for {
		key, err := c.Text()
		if err != nil {
			return err
		}
		if !c.take(':') {
			return ErrSyntax
		}
		if err := member(key); err != nil {
			return err
		}
		if c.take('}') {
			return nil
		}
		if !c.take(',') {
			return ErrSyntax
		}
	}
}

// Array passes over an array, and calls element to pass over each of its elements.
func (c *Walker) Array(element func() error) error {
	if !c.take('[') {
		return ErrSyntax
	}
	if c.take(']') {
		return nil
	}
	for {
		if err := element(); err != nil {
			return err
		}
		if c.take(']') {
			return nil
		}
		if !c.take(',') {
			return ErrSyntax
		}
	}
}

// Text passes over a string, and returns it as it is spelled, without its quotes.
func (c *Walker) Text() ([]byte, error) {
	if !c.take('"') {
		return nil, ErrSyntax
	}
	from := c.p
	for {
		end := bytes.IndexByte(c.b[c.p:], '"')
		if end < 0 {
			return nil, ErrSyntax
		}
		c.p += end + 1
		slashes := 0
		for i := c.p - 2; i >= from && c.b[i] == '\\'; i-- {
			slashes++
		}
		if slashes%2 == 0 {
			return c.b[from : c.p-1], nil
		}
	}
}

// Small passes over a whole number of at most four digits.
func (c *Walker) Small() (int, error) {
	c.blank()
	n, digits := 0, 0
	for ; c.p < len(c.b) && c.b[c.p]-'0' < 10 && digits < 5; c.p++ {
		n = 10*n + int(c.b[c.p]-'0')
		digits++
	}
	if digits == 0 || digits > 4 {
		return 0, ErrSyntax
	}
	return n, nil
}

// Value passes over the value that is next, and returns it as it is spelled: at
// least one byte.
func (c *Walker) Value() ([]byte, error) {
	c.blank()
	from := c.p
	if err := c.Skip(); err != nil {
		return nil, err
	}
	return c.b[from:c.p], nil
}

// Skip passes over the value that is next.
func (c *Walker) Skip() error {
	if c.blank(); c.p >= len(c.b) {
		return ErrSyntax
	}
	if c.depth++; c.depth > deepest {
		return ErrSyntax
	}
	defer func() { c.depth-- }()
	switch c.b[c.p] {
	case '{':
		return c.Object(func([]byte) error { return c.Skip() })
	case '[':
		return c.Array(c.Skip)
	case '"':
		_, err := c.Text()
		return err
	}
	from := c.p
	for c.p < len(c.b) && (c.b[c.p] >= '0' && c.b[c.p] <= '9' || c.b[c.p] >= 'a' && c.b[c.p] <= 'z' || c.b[c.p] == '-' || c.b[c.p] == '+' || c.b[c.p] == '.' || c.b[c.p] == 'E') {
		c.p++
	}
	if c.p == from {
		return ErrSyntax
	}
	return nil
}
