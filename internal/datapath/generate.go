package datapath

//go:generate go tool bpf2go -go-package datapath -tags !otherlayout -target bpfel -cc clang -cflags "-O2 -g -mcpu=v3 -Wall -Werror" -type rejection -type reject -type take_origin_args -type drop_exec_args -type bound -type file_id -type exec_event -type sandbox_file -type identify_file_args -type task_key agent ../../bpf/agent.bpf.c -- -I../../bpf/headers

// Another build, whose layout is another, for tests of a change of builds: go build
// -tags otherlayout.
//go:generate go tool bpf2go -go-package datapath -tags otherlayout -output-stem other -target bpfel -cc clang -cflags "-O2 -g -mcpu=v3 -DOTHER_LAYOUT -Wall -Werror" -type rejection -type reject -type take_origin_args -type drop_exec_args -type bound -type file_id -type exec_event -type sandbox_file -type identify_file_args -type task_key agent ../../bpf/agent.bpf.c -- -I../../bpf/headers
