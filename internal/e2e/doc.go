// Package e2e holds the tests of the whole: the commands as users run them, on
// real stores, real mounts, real loop devices and real ext4, and the test of
// which package may import which. It has no code of its own.
package e2e
