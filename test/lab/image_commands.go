package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/test/lab/image"
	"github.com/tulle-mesh/tulle/test/lab/internal/component"
	"github.com/tulle-mesh/tulle/test/lab/internal/progress"
)

func imageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Make container images from files, and push them to a registry",
	}
	cmd.AddCommand(imageBuildCommand(), imageEnvoyCommand(), imagePushCommand(), imageServeCommand())
	return cmd
}

func imageBuildCommand() *cobra.Command {
	var spec image.Spec
	var libraries bool
	var out string
	cmd := &cobra.Command{
		Use:   "build --name NAME [flags] SOURCE:/PATH...",
		Short: "Make an image of files and print its archive's path",
		Long: `Make an image of files and print its archive's path.

Each argument is a file of this machine and its absolute path in the image, or
@TARGET:/PATH for a symbolic link. The same files make the same image. Without
--entrypoint, the image starts the first file.`,
		Example: `  lab image build --name tulle.dev/operator:dev --user 65532:65532 bin/manager:/manager`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if spec.Name == "" {
				return errors.New("no name: say --name registry/image:tag")
			}
			var err error
			if spec.Files, err = parseFiles(args, libraries); err != nil {
				return err
			}
			if len(spec.Entrypoint) == 0 {
				spec.Entrypoint = []string{spec.Files[0].Path}
			}
			return saveImage(cmd, spec, out)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&spec.Name, "name", "", "name of the image, with a tag")
	flags.StringVar(&spec.User, "user", "65532:65532", "user, or user:group, by number")
	flags.StringSliceVar(&spec.Entrypoint, "entrypoint", nil, "command and arguments, separated by commas")
	flags.StringSliceVar(&spec.Env, "env", nil, "environment, as NAME=VALUE")
	flags.BoolVar(&libraries, "libraries", false, "add the shared libraries that the programs need")
	flags.StringVar(&out, "out", "", "file to write (default: one in the cache)")
	return cmd
}

func imageEnvoyCommand() *cobra.Command {
	var name, out string
	cmd := &cobra.Command{
		Use:   "envoy [version]",
		Short: "Make an image of an upstream Envoy and print its archive's path",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			version := component.EnvoyVersion
			if len(args) == 1 {
				version = args[0]
			}
			cache, err := openCache(progress.New(os.Stderr))
			if err != nil {
				return err
			}
			if err := cache.Ensure(cmd.Context(), "envoy-"+version); err != nil {
				return err
			}
			folder, err := cache.Path("envoy-" + version)
			if err != nil {
				return err
			}
			if name == "" {
				name = "tulle.dev/envoy:" + version
			}
			spec, err := image.Envoy(name, filepath.Join(folder, "envoy"))
			if err != nil {
				return err
			}
			return saveImage(cmd, spec, out)
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name of the image, with a tag (default: tulle.dev/envoy:VERSION)")
	cmd.Flags().StringVar(&out, "out", "", "file to write (default: one in the cache)")
	return cmd
}

func imagePushCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "push ARCHIVE [TARGET]",
		Short: "Push an archive of `lab image` to a registry and print its reference by digest",
		Long: `Push an archive of "lab image" to a registry and print its reference by digest.

TARGET is a name in the registry; without it, the image's own name. Credentials
are those of docker's configuration.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			target := ""
			if len(args) == 2 {
				target = args[1]
			}
			reference, err := image.Push(cmd.Context(), args[0], target)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), reference)
			return nil
		},
	}
}

func imageServeCommand() *cobra.Command {
	var listen string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve an empty registry, in memory, until it is stopped; print its address",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var config net.ListenConfig
			listener, err := config.Listen(cmd.Context(), "tcp", listen)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), listener.Addr())
			return image.Serve(cmd.Context(), listener)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:0", "address to serve at; port 0 takes a free one")
	return cmd
}

// saveImage writes the archive, into the cache unless out is given, and prints
// its path.
func saveImage(cmd *cobra.Command, spec image.Spec, out string) error {
	if out != "" {
		built, err := image.Build(spec)
		if err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), out)
		return image.WriteFile(built, spec.Name, out)
	}
	root, err := cacheFolder()
	if err != nil {
		return err
	}
	path, _, err := image.Save(spec, filepath.Join(root, "images"))
	if err != nil {
		return err
	}
	fmt.Fprintln(cmd.OutOrStdout(), path)
	return nil
}

// parseFiles reads arguments of the form SOURCE:/PATH and @TARGET:/PATH.
func parseFiles(args []string, libraries bool) ([]image.File, error) {
	var files, needed []image.File
	for _, arg := range args {
		source, path, found := strings.Cut(arg, ":")
		if !found || source == "" {
			return nil, fmt.Errorf("%q: want SOURCE:/PATH or @TARGET:/PATH", arg)
		}
		if target, isLink := strings.CutPrefix(source, "@"); isLink {
			files = append(files, image.File{Path: path, Link: target})
			continue
		}
		files = append(files, image.File{Path: path, Source: source})
		if libraries {
			found, err := image.SharedLibraries(source)
			if err != nil {
				return nil, err
			}
			needed = append(needed, found...)
		}
	}
	if len(files) > 0 && files[0].Link != "" {
		return nil, errors.New("the first file must not be a link: it is what the image starts")
	}
	return append(files, needed...), nil
}
