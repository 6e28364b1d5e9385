package config

import (
	"encoding/json"

	"github.com/invopop/jsonschema"
)

// Schema returns the JSON Schema of the file, for editors. It is generated from the types and checked in as config/outrelay.schema.json.
func Schema() ([]byte, error) {
	r := jsonschema.Reflector{FieldNameTag: "yaml", RequiredFromJSONSchemaTags: true, Anonymous: true}
	s := r.Reflect(&Config{})
	s.Title = "outrelay"
	b, err := json.MarshalIndent(s, "", "  ")
	return append(b, '\n'), err
}

// JSONSchema describes a duration.
func (Duration) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string", Pattern: `^([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+$`}
}

// JSONSchema describes a size.
func (Size) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{
		{Type: "integer", Minimum: "1"}, {Type: "string", Pattern: `^[0-9]+ *(B|KB|MB|GB|KiB|MiB|GiB)?$`}}}
}

// JSONSchema describes a text with references.
func (Secret) JSONSchema() *jsonschema.Schema { return &jsonschema.Schema{Type: "string"} }

// JSONSchema describes one statement or a list.
func (Statements) JSONSchema() *jsonschema.Schema {
	text := &jsonschema.Schema{Type: "string"}
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{text, {Type: "array", Items: text}}}
}

// JSONSchema describes where a group begins.
func (Start) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{
		{Type: "string", Enum: []any{"earliest", "latest"}}, {Type: "string", Format: "date-time"}}}
}
