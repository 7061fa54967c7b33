# What an agent might try. Runs in the sandbox, as its user.
try() {
	printf '\n  # %s\n  $ %s\n' "$1" "$2"
	sh -c "$2" 2>&1 | sed 's/^/    /'
}
try 'a host that the policy lets curl reach' \
	'curl https://api.github.com/'
try 'the same without the proxy: it is captured all the same' \
	'curl --noproxy "*" https://api.github.com/'
try 'a host that no policy names' \
	'curl https://paste.example.net/'
try 'without the proxy it does not even resolve' \
	'curl --noproxy "*" https://paste.example.net/'
try 'and its address leads nowhere' \
	'curl --noproxy "*" --insecure https://203.0.113.66/'
try 'nor does that of a cloud metadata service' \
	'curl http://169.254.169.254/latest/meta-data/'
try 'the allowed host, by another program: a copy of curl' \
	'cp /usr/bin/curl /tmp/updater && /tmp/updater https://api.github.com/'
exit 0
