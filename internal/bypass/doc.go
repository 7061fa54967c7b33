// Package bypass tries the known ways around a fence, one after the other, from
// inside a real sandbox and as its user, and looks at the far end (nothing arrived
// that policy did not allow) and at the record (it was seen, and why it was
// refused). Each group of attempts ends with one that is allowed: a fence that
// refuses everything would pass for none of them.
//
// It has no code but tests, and its test program is all that it needs: it is the
// test, the ringfence under test, and the intruder inside. So it runs on a machine
// that has a kernel and busybox only.
package bypass
