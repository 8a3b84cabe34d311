#error "Linux only"
