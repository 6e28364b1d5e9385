package config

// DebeziumOptions lists name and counterpart of every option of Debezium that the decoder knows.
func DebeziumOptions() [][2]string {
	var out [][2]string
	for _, o := range debeziumOptions() {
		out = append(out, [2]string{o.name, o.ours})
	}
	return out
}
