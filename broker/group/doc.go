// Package group decides for consumer groups: membership, generations, assignments, committed offsets. It never does I/O, starts no
// goroutine and reads no clock: time comes in with each call, and what is to be done goes out as [Effects].
package group
