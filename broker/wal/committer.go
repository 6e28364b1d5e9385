package wal

import "log/slog"

// Batch is what one Submit makes durable. Done must not block and must not call Submit; pos is valid until Done returns.
type Batch struct {
	Records []Record
	Done    func(pos []Pos, err error)
}

// CommitterOptions configures a Committer. The zero value works.
type CommitterOptions struct {
	QueueBytesMax int64 // bytes submitted and not yet durable beyond which Submit blocks; 16 MiB
	Logger        *slog.Logger
}

// Committer makes batches of many callers durable together.
type Committer struct{}

func NewCommitter(w *WAL, o CommitterOptions) *Committer { return &Committer{} }
func (c *Committer) Submit(b Batch)                      { b.Done(nil, errTODO) }
func (c *Committer) Close()                              {}
