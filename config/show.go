package config

import "go.yaml.in/yaml/v3"

// YAML returns the configuration as it is in force, defaults included, without secrets. It is a file that can be loaded again where
// every secret is a reference.
func (c *Config) YAML() ([]byte, error) { return yaml.Marshal(c) }
