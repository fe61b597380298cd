package smi

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"regexp"
	"strconv"

	"k8s.io/apimachinery/pkg/api/resource"
)

// maxWeight is the largest weight of the hub. A TrafficSplit whose weights are larger, as quantities can be, has them scaled down.
const maxWeight = math.MaxInt32

// upQuantities makes whole numbers of the quantities of TrafficSplit v1alpha1, in the same proportions: 500m and 1500m become 500 and 1500, 1 and 9 stay.
func upQuantities(c content) (content, error) {
	spec, err := object(c, "spec")
	if err != nil {
		return nil, err
	}
	backends, err := objects(spec, "backends", "spec.backends")
	if err != nil {
		return nil, err
	}
	weights := make([]*big.Rat, len(backends))
	for i, backend := range backends {
		if weights[i], err = quantity(backend["weight"]); err != nil {
			return nil, fmt.Errorf("spec.backends[%d].weight: %w", i, err)
		}
	}
	for i, weight := range whole(weights) {
		backends[i]["weight"] = weight
	}
	return c, nil
}

// quantity reads a weight of v1alpha1: a quantity as text, or a number.
func quantity(v any) (*big.Rat, error) {
	var text string
	switch v := v.(type) {
	case nil:
		return nil, errors.New("it is missing: give a whole number or a quantity such as 500m")
	case string:
		text = v
	case int64:
		text = strconv.FormatInt(v, 10)
	case float64:
		text = strconv.FormatFloat(v, 'f', -1, 64)
	default:
		return nil, errors.New("it must be a whole number or a quantity such as 500m")
	}
	if len(text) > maxQuantity || !quantityFormat.MatchString(text) {
		return nil, fmt.Errorf("%q is no quantity of zero or more: give a whole number or a quantity such as 500m", text[:min(len(text), maxQuantity)])
	}
	q, err := resource.ParseQuantity(text)
	if err != nil {
		return nil, fmt.Errorf("%q is no quantity: give a whole number or a quantity such as 500m", text)
	}
	decimal := q.AsDec()
	return rational(decimal.UnscaledBig(), int64(decimal.Scale())), nil
}

// maxQuantity, in characters, and quantityFormat are as in the CustomResourceDefinition: resource.ParseQuantity would spend minutes on an exponent of nine digits.
const maxQuantity = 32

var quantityFormat = regexp.MustCompile(`^[+]?([0-9]+[.]?[0-9]*|[.][0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,2})?$`)

// rational is unscaled divided by 10 to the power of scale.
func rational(unscaled *big.Int, scale int64) *big.Rat {
	r := new(big.Rat).SetInt(unscaled)
	power := new(big.Int).Exp(big.NewInt(10), big.NewInt(max(scale, -scale)), nil)
	if scale > 0 {
		return r.Quo(r, new(big.Rat).SetInt(power))
	}
	return r.Mul(r, new(big.Rat).SetInt(power))
}

// whole scales weights so that all are whole numbers of up to maxWeight: by a thousand, a million or a billion if there are fractions, and down if they are too
// large. None but zero becomes zero.
func whole(weights []*big.Rat) []int64 {
	scale := big.NewRat(1, 1)
	for _, w := range weights {
		for scaled := new(big.Rat).Mul(w, scale); !scaled.IsInt(); scaled.Mul(w, scale) {
			scale.Mul(scale, big.NewRat(1000, 1)) // a quantity has nine decimal places at most
		}
	}
	largest := new(big.Rat)
	for _, w := range weights {
		if scaled := new(big.Rat).Mul(w, scale); scaled.Cmp(largest) > 0 {
			largest = scaled
		}
	}
	if limit := big.NewRat(maxWeight, 1); largest.Cmp(limit) > 0 {
		scale.Mul(scale, limit.Quo(limit, largest))
	}
	numbers := make([]int64, len(weights))
	for i, w := range weights {
		scaled := new(big.Rat).Mul(w, scale)
		numbers[i] = new(big.Int).Quo(scaled.Num(), scaled.Denom()).Int64()
		if numbers[i] == 0 && w.Sign() > 0 {
			numbers[i] = 1
		}
	}
	return numbers
}

// downQuantities makes quantities of whole numbers.
func downQuantities(c content) (content, error) {
	c, err := withoutMatches(c)
	if err != nil {
		return nil, err
	}
	spec, err := object(c, "spec")
	if err != nil {
		return nil, err
	}
	backends, err := objects(spec, "backends", "spec.backends")
	if err != nil {
		return nil, err
	}
	for i, backend := range backends {
		switch weight := backend["weight"].(type) {
		case int64:
			backend["weight"] = strconv.FormatInt(weight, 10)
		case float64: // of a foreign definition, which may allow any number
			backend["weight"] = strconv.FormatFloat(weight, 'f', -1, 64)
		default:
			return nil, fmt.Errorf("spec.backends[%d].weight must be a number", i)
		}
	}
	return c, nil
}
