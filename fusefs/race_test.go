//go:build race

package fusefs

func init() { raceDetector = true }
