package crd

import (
	"embed"
	"io/fs"
)

//go:embed smi
var smi embed.FS

// SMI returns the YAML of the CustomResourceDefinitions of SMI's kinds, which the operator installs where there are none.
func SMI() ([][]byte, error) {
	entries, err := fs.ReadDir(smi, "smi")
	if err != nil {
		return nil, err
	}
	var all [][]byte
	for _, e := range entries {
		raw, err := smi.ReadFile("smi/" + e.Name())
		if err != nil {
			return nil, err
		}
		all = append(all, raw)
	}
	return all, nil
}
