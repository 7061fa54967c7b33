package testenv

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"strings"
	"sync"
)

// gitRepository is the one repository that the web services have.
const gitRepository = "/project.git"

// gitHandler serves the repository by git's own http-backend (smart protocol).
type gitHandler struct {
	root string
	// make makes the repository when it is first asked for: most tests never do.
	make func() error
}

func newGitHandler(root string) *gitHandler {
	h := &gitHandler{root: root}
	h.make = sync.OnceValue(h.makeRepository)
	return h
}

func (h *gitHandler) serves(path string) bool {
	return strings.Contains(path, gitRepository+"/")
}

// ServeHTTP answers for the repository below any path, so that a test can clone
// https://host/owner/project.git.
func (h *gitHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := h.make(); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	git, err := exec.LookPath("git")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, below, _ := strings.Cut(r.URL.Path, gitRepository)
	inner := r.Clone(r.Context())
	inner.URL.Path = gitRepository + below
	backend := &cgi.Handler{
		Path:   git,
		Args:   []string{"http-backend"},
		Env:    []string{"GIT_PROJECT_ROOT=" + h.root, "GIT_HTTP_EXPORT_ALL=1"},
		Logger: log.New(io.Discard, "", 0),
		Stderr: io.Discard,
	}
	backend.ServeHTTP(w, inner)
}

// makeRepository makes a bare repository with one commit on its branch main.
func (h *gitHandler) makeRepository() error {
	repository := h.root + gitRepository
	if err := os.MkdirAll(repository, 0o755); err != nil {
		return fmt.Errorf("make repository: %w", err)
	}
	const commit = `commit refs/heads/main
committer Test <test@example.com> 1700000000 +0000
data 6
first
M 100644 inline README
data 6
hello

`
	for _, step := range []struct {
		stdin string
		args  []string
	}{
		{"", []string{"init", "--quiet", "--bare", "--initial-branch=main", "."}},
		{commit, []string{"fast-import", "--quiet"}},
	} {
		git := exec.Command("git", step.args...)
		git.Dir = repository
		git.Stdin = strings.NewReader(step.stdin)
		if out, err := git.CombinedOutput(); err != nil {
			return fmt.Errorf("run git %s: %w: %s", step.args[0], err, bytes.TrimSpace(out))
		}
	}
	return nil
}
