// Checks dashboards against Grafana's schema, strictly: unknown fields, wrong types and missing fields are errors.
// Usage: go run . FILE...
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

func check(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	// Panels and queries are of types that plugins know.
	plugins.RegisterDefaultPlugins()
	var strict dashboard.Dashboard
	if err := real(strict.UnmarshalJSONStrict(text)); err != nil {
		return err
	}
	if err := real(strict.Validate()); err != nil {
		return err
	}
	if len(strict.Panels) == 0 {
		return fmt.Errorf("no panels: nothing was checked")
	}
	_, err = json.Marshal(strict)
	return err
}

// An empty list of errors, which the package returns as an error, is none.
func real(err error) error {
	var list cog.BuildErrors
	if errors.As(err, &list) && len(list) == 0 {
		return nil
	}
	return err
}

func main() {
	failed := len(os.Args) < 2
	for _, file := range os.Args[1:] {
		if err := check(file); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", file, err)
			failed = true
		} else {
			fmt.Printf("%s: valid\n", file)
		}
	}
	if failed {
		os.Exit(1)
	}
}
