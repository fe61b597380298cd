module github.com/tulle-mesh/tulle/test/bench/fortio

go 1.26.0

require (
	fortio.org/fortio v1.40.1
	golang.org/x/net v0.5.0
	google.golang.org/grpc v1.52.3
)

require (
	github.com/golang/protobuf v1.5.2 // indirect
	github.com/google/uuid v1.3.0 // indirect
	golang.org/x/exp v0.0.0-20221111204811-129d8d6c17ab // indirect
	golang.org/x/sys v0.4.0 // indirect
	golang.org/x/text v0.6.0 // indirect
	google.golang.org/genproto v0.0.0-20221118155620-16455021b5e6 // indirect
	google.golang.org/protobuf v1.28.1 // indirect
)
