package sha256x2

import "testing"

// TestSumSlow is TestSum on a processor without the extensions.
func TestSumSlow(t *testing.T) {
	if !fast {
		t.Skip("this processor has no SHA extensions: TestSum was of those without")
	}
	fast = false
	t.Cleanup(func() { fast = true })
	TestSum(t)
}
