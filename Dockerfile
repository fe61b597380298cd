# The operator and the init container's program: two static binaries and nothing else.
FROM --platform=$BUILDPLATFORM golang:1.26.8 AS build
ARG TARGETOS
ARG TARGETARCH
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY api/ api/
COPY cmd/ cmd/
COPY controllers/ controllers/
COPY internal/ internal/
COPY webhooks/ webhooks/
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -tags grpcnotrace -ldflags="-s -w" -o /out/ ./cmd/manager ./cmd/tulle-init

FROM gcr.io/distroless/static:nonroot
COPY --from=build /out/manager /out/tulle-init /
USER 65532:65532
ENTRYPOINT ["/manager"]
