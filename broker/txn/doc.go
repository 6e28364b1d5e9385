// Package txn decides for transactional producers: ids, epochs, and the two-phase end of a transaction. It never does I/O, starts no
// goroutine and reads no clock: time comes in with each call, and what is to be done goes out as [Effects].
package txn
