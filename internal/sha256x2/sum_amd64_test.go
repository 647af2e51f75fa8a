package sha256x2

import "testing"

// TestSumSlow is TestSum on a processor without the extensions.
func TestSumSlow(t *testing.T) {
	had := fast
	fast = false
	t.Cleanup(func() { fast = had })
	b := random(1000)
	check(t, b[:100], b[100:])
}
