package wire

import (
	"strconv"
	"strings"

	"pmxfs/internal/fault"
)

// Features is the set of additions that a server has beyond version 1.
type Features uint32

// The features, as the masks of the Hello packet.
const (
	Browse     Features = 1 << iota // lists, files and the store's status
	Blobs                           // chunks in their stored form, both ways
	Control                         // cancel, commit, existence; the flag Hold
	Namespaces                      // ids may be "a/b/100"
	State                           // the records of files have the flag Open, too

	// AllFeatures is every addition that this package knows.
	AllFeatures = Browse | Blobs | Control | Namespaces | State
)

// featureNames has the names of the bits, from the lowest.
var featureNames = [...]string{"browse", "blobs", "control", "namespaces", "state"}

// Has reports whether all features of need are in f.
func (f Features) Has(need Features) bool { return f&need == need }

// String returns the names of the features with commas between, "none" for the
// empty set. Bits without a name are left out.
func (f Features) String() string {
	var names []string
	for i, name := range featureNames {
		if f&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, ",")
}

// ParseFeatures is the inverse of String. It also takes "all", and the empty
// string for the empty set. An unknown name is an error of kind invalid.
func ParseFeatures(s string) (Features, error) {
	switch s {
	case "", "none":
		return 0, nil
	case "all":
		return AllFeatures, nil
	}
	var f Features
next:
	for _, word := range strings.Split(s, ",") {
		word = strings.TrimSpace(word)
		for i, name := range featureNames {
			if word == name {
				f |= 1 << i
				continue next
			}
		}
		return 0, fault.Newf(fault.Invalid, "feature", strconv.Quote(word), "there are %s, and all or none", strings.Join(featureNames[:], ", "))
	}
	return f, nil
}
