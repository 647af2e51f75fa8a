//go:build race

package archive

// raceEnabled says that memory and time are not what they are otherwise.
const raceEnabled = true
