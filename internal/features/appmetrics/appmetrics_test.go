package appmetrics_test

import (
	"testing"

	"github.com/tulle-mesh/tulle/internal/compile/compiletest"
)

func TestGolden(t *testing.T) { compiletest.Golden(t) }
