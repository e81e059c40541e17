"""One page of all hosts of a cluster: requests between the web processes of the hosts, and the merged answers."""
