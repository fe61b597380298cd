package image

import (
	"slices"
	"testing"
)

func TestParseLDD(t *testing.T) {
	files, err := parseLDD([]byte(`	linux-vdso.so.1 (0x00007ffe)
	libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f01)
	/lib64/ld-linux-x86-64.so.2 (0x00007f02)
`))
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, file := range files {
		paths = append(paths, file.Path)
	}
	if want := []string{"/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"}; !slices.Equal(paths, want) {
		t.Errorf("got %v, want %v", paths, want)
	}
	if _, err := parseLDD([]byte("	libabsent.so.1 => not found\n")); err == nil {
		t.Error("a missing library is no error")
	}
}
