package config

import (
	"fmt"
	"strings"

	"github.com/outrelay/outrelay"
)

// Problem is one thing that is wrong with a configuration, and how to mend it.
type Problem struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Path    string `json:"path,omitempty"` // as sources.shop.slot
	Code    string `json:"code"`           // stable
	Cause   string `json:"cause"`
	Fix     string `json:"fix,omitempty"`
	Warning bool   `json:"warning,omitempty"` // allowed, but unwise
}

func place(file string, p Pos) string {
	if file == "" {
		file = "configuration"
	}
	if p.Line == 0 {
		return file
	}
	if p.Column == 0 {
		return fmt.Sprintf("%s:%d", file, p.Line)
	}
	return fmt.Sprintf("%s:%d:%d", file, p.Line, p.Column)
}

// String returns "file:line:column: path: cause [code]; fix".
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(place(p.File, Pos{p.Line, p.Column}))
	b.WriteString(": ")
	if p.Path != "" {
		b.WriteString(p.Path)
		b.WriteString(": ")
	}
	b.WriteString(p.Cause)
	b.WriteString(" [" + p.Code + "]")
	if p.Fix != "" {
		b.WriteString("; " + p.Fix)
	}
	return b.String()
}

// Problems is everything that is wrong with a configuration, in the order of the file. It is an error of class outrelay.ErrConfig.
type Problems []Problem

// Error lists them, one a line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Unwrap makes errors.Is find the class.
func (ps Problems) Unwrap() error { return outrelay.ErrConfig }
