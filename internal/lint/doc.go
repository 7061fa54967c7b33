// Package lint holds the rules of the tree that no general linter knows: who may
// import whom, which room a library lives in, what no room may do. They run as
// tests of this package.
//
// A check takes the parsed files of the tree and returns findings, each with a
// place, what is wrong and a way out. Checks read syntax only: no type
// information, so that all of them take a second. A rule that needs an exception
// for one file is changed here, in the open; there are no comments that turn a
// check off.
package lint
