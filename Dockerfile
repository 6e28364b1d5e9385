# A static binary and nothing else: no shell, no package manager, no root.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o /outrelay ./cmd/outrelay \
 && mkdir -m 0700 /data

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /outrelay /outrelay
COPY --from=build --chown=65532:65532 /data /var/lib/outrelay
USER 65532:65532
VOLUME /var/lib/outrelay
EXPOSE 9092 8080
ENTRYPOINT ["/outrelay"]
CMD ["run", "-c", "/etc/outrelay/outrelay.yaml", "--data", "/var/lib/outrelay"]
