package auth

// SetNonce makes the server's nonce known.
func SetNonce(c *Conversation, nonce string) { c.nonce = func() string { return nonce } }
