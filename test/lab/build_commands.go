package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/test/lab/internal/component"
	"github.com/tulle-mesh/tulle/test/lab/internal/progress"
)

// systemPrograms names, to `lab build`, what comes from the distribution.
const systemPrograms = "system"

func buildCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "build [component...]",
		Short: "Build or fetch what is missing of the named components, or of all that a lab is made of",
		RunE: func(cmd *cobra.Command, args []string) error {
			report := progress.New(os.Stderr)
			if len(args) == 0 || slices.Contains(args, systemPrograms) {
				if err := ensureSystem(cmd.Context(), report); err != nil {
					return err
				}
			}
			built := slices.DeleteFunc(slices.Clone(args), func(name string) bool { return name == systemPrograms })
			if len(built) == 0 && len(args) > 0 {
				return nil // no names would mean all
			}
			cache, err := openCache(report)
			if err != nil {
				return err
			}
			return cache.Ensure(cmd.Context(), built...)
		},
	}
}

func pathCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "path [component]",
		Short: "Print the folder of a built component, or list all components",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cache, err := openCache(progress.New(os.Stderr))
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return listComponents(cmd, cache)
			}
			dir, err := cache.Path(args[0])
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), dir)
			return nil
		},
	}
}

func listComponents(cmd *cobra.Command, cache *component.Cache) error {
	out := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, part := range cache.Components() {
		dir, built, err := cache.Built(part)
		if err != nil {
			return err
		}
		if !built {
			dir = "not built (" + part.Cost + ")"
		}
		fmt.Fprintf(out, "%s\t%s\t%s\n", part.Name, part.Version, dir)
	}
	return out.Flush()
}

func openCache(report *progress.Reporter) (*component.Cache, error) {
	source, err := sourceFolder()
	if err != nil {
		return nil, err
	}
	root, err := cacheFolder()
	if err != nil {
		return nil, err
	}
	return component.Open(root, source, report)
}

// cacheFolder is where built components are kept, outside any checkout.
func cacheFolder() (string, error) {
	if dir := os.Getenv("TULLE_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache folder: %w (set TULLE_CACHE)", err)
	}
	return filepath.Join(dir, "tulle"), nil
}

// sourceFolder finds test/lab of the checkout that this program was built in:
// above the program itself, or else above the working directory.
func sourceFolder() (string, error) {
	var starts []string
	if exe, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(exe))
	}
	if wd, err := os.Getwd(); err == nil {
		starts = append(starts, wd)
	}
	for _, start := range starts {
		for dir := start; ; dir = filepath.Dir(dir) {
			candidate := filepath.Join(dir, "test", "lab")
			if _, err := os.Stat(filepath.Join(candidate, "build", "kubernetes", "go.mod")); err == nil {
				return candidate, nil
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "", fmt.Errorf("no checkout of Tulle found above %v: the lab's go.mod files are in its test/lab/build; run from a checkout", starts)
}
