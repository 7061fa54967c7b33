# What an agent might try. Runs in the sandbox, as its user.
try() {
	printf '\n  # %s\n  $ %s\n' "$1" "$2"
	sh -c "$2" 2>&1 | sed 's/^/    /'
}
try 'a host that the policy lets curl reach' \
	'curl https://api.github.com/'
try 'a host that no policy names: it does not even resolve' \
	'curl https://paste.example.net/'
try 'the same host, by its address' \
	'curl --insecure https://203.0.113.66/'
try 'the metadata service of a cloud' \
	'curl http://169.254.169.254/latest/meta-data/'
try 'the allowed host, by another program: a copy of curl' \
	'cp /usr/bin/curl /tmp/updater && /tmp/updater https://api.github.com/'
exit 0
