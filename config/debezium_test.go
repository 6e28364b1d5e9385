package config_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/outrelay/outrelay/config"
)

// TestLoad_DebeziumOptionsAreRefusedByName: someone pastes a connector's configuration, at whatever place.
func TestLoad_DebeziumOptionsAreRefusedByName(t *testing.T) {
	t.Parallel()
	at := map[string]string{"table": "      - table: public.outbox\n        ", "source": "    outbox:\n", "top": ""}
	for _, c := range []struct{ place, option, want string }{
		{"table", "route.topic.replacement: 'outbox.event.${routedByValue}'", ":6:9: "},
		{"table", "route.topic.replacement: x", "route.topic.replacement is an option of Debezium [debezium-option]; write `route: {replacement: …}` under the outbox table"},
		{"table", "table.field.event.key: customer", "write `columns: {key: …}` under the outbox table"},
		{"source", "transforms.outbox.table.field.event.key: customer", "transforms.outbox.table.field.event.key is an option of Debezium [debezium-option]; write `columns: {key: …}` under the outbox table"},
		{"source", "transforms.outbox.type: io.debezium.transforms.outbox.EventRouter", "transforms.outbox.type is an option of Debezium"},
		{"source", "table.include.list: public.outbox", "write `outbox: [{table: …}]` under the source"},
		{"source", "slot.name: debezium", "write `slot: …` under the source"},
		{"top", "transforms: outbox", "it is not needed"},
		{"top", "tracing.operation.name: x", "it is refused: place the column"},
	} {
		var text string
		switch c.place {
		case "table":
			text = strings.Replace(first, at["table"][:len("      - table: public.outbox\n")], at["table"]+c.option+"\n", 1)
		case "source":
			text = strings.Replace(first, at["source"], "    "+c.option+"\n"+at["source"], 1)
		default:
			text = first + c.option + "\n"
		}
		if _, err := load(t, text); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "unknown-key") {
			t.Errorf("%s: %v, want %q", c.option, err, c.want)
		}
	}
}

// TestLoad_ThePagesFile loads the example of docs/event-router.md as it stands.
func TestLoad_ThePagesFile(t *testing.T) {
	t.Setenv("SHOP_DSN", "postgres://relay@127.0.0.1:5432/shop")
	page, err := os.ReadFile("../docs/event-router.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(page), "```yaml\n")
	text, _, _ = strings.Cut(text, "```")
	c, err := load(t, text)
	if err != nil {
		t.Fatal(err)
	}
	if r := c.Sources["shop"].Outbox[1].Route; r == nil || r.By != "kind" || r.Replacement != "outbox.event.$1" {
		t.Errorf("route %+v", r)
	}
}

var quoted = regexp.MustCompile("`([^`]+)`")

// TestDebezium_ThePageNamesTheSameOptions: the tables of docs/event-router.md and what the decoder refuses are one list.
func TestDebezium_ThePageNamesTheSameOptions(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/event-router.md")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]string{}
	for _, o := range config.DebeziumOptions() {
		known[o[0]] = o[1]
	}
	seen := map[string]bool{}
	_, tables, _ := strings.Cut(string(page), "## The options of Debezium")
	tables, _, _ = strings.Cut(tables, "\n## Topics")
	for line := range strings.Lines(tables) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 || strings.HasPrefix(strings.TrimSpace(cells[1]), "…") || strings.HasPrefix(cells[1], "--") || strings.Contains(cells[1], "Debezium") {
			continue
		}
		for _, m := range quoted.FindAllStringSubmatch(cells[1], -1) {
			ours, ok := known[m[1]]
			seen[m[1]] = true
			if !ok {
				t.Errorf("the page has %s, the decoder does not know it", m[1])
			} else if want := ours; want == "" && strings.TrimSpace(cells[2]) != "–" || !strings.Contains(cells[2], want) {
				t.Errorf("%s: the page says %s, the decoder %q", m[1], strings.TrimSpace(cells[2]), ours)
			}
		}
	}
	for name := range known {
		if !seen[name] {
			t.Errorf("the decoder refuses %s, the page does not have it", name)
		}
	}
}
